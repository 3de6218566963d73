"""Where private keys of authorities live: the `KeyStore` seam and the store on disk.

A PKCS#11 or KMS store fills the same seam: what it returns only has to sign.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from ca.errors import KeyFileError, KeyRefusedError, StateError
from ca.files import (
    make_private_folder,
    read_private_file,
    sweep_temporary_files,
    sync_folder,
    write_private_file,
)
from ca.key_kinds import PrivateKey, check_private_key, generate_key

__all__ = ["FileKeyStore", "KeyStore", "generate_key", "load_passphrase"]

_log = structlog.get_logger(__name__)
_NAME = re.compile(r"[a-z0-9-]{1,80}", re.ASCII)
# BUDGET: the work factor of PKCS#8 encryption is low, so the passphrase itself has to be beyond
# guessing: 128 bits are 22 characters of base64.
_MIN_PASSPHRASE_BYTES = 22
_PLAIN_MARK = b"-----BEGIN PRIVATE KEY-----"


class KeyStore(Protocol):
    """Keeps the private keys of authorities under names of lower-case letters, digits and `-`."""

    def load_key(self, name: str) -> PrivateKey | None:
        """Return the key called `name`, or None when there is none."""

    def store_key(self, name: str, key: PrivateKey) -> None:
        """Keep `key` durably under the new name `name`; a taken name is an error."""

    def remove_key(self, name: str) -> None:
        """Forget the key called `name`, if there is one."""

    def key_names(self) -> frozenset[str]:
        """Return what the keys are called that this store holds."""


class FileKeyStore:
    """Keys as PKCS#8 PEM files of mode 0600 in one folder of mode 0700.

    With a passphrase they are encrypted (PBES2, AES-256); plain ones from before are encrypted when
    they are next loaded.
    """

    def __init__(self, folder: Path, passphrase: bytes | None = None) -> None:
        """Make or check the folder, and sweep what a killed writer left in it."""
        make_private_folder(folder)
        sweep_temporary_files(folder)
        self._folder = folder
        self._passphrase = passphrase

    def load_key(self, name: str) -> PrivateKey | None:
        """Return the key called `name`, or None when there is no such file.

        Raises:
            KeyFileError: the file is open to others, cannot be decrypted, or holds no key that this
                house signs with.
        """
        path = self._path(name)
        try:
            pem = read_private_file(path)
        except StateError as exc:
            raise KeyFileError(str(exc), help=exc.help) from exc
        if pem is None:
            return None
        key = read_private_key(pem, self._passphrase, f"key file `{path}`")
        if self._passphrase is not None and pem.startswith(_PLAIN_MARK):
            self._write(path, key, replace=True)
            _log.info("key_encrypted", key=name)
        return key

    def store_key(self, name: str, key: PrivateKey) -> None:
        """Write `key` under the new name `name`.

        Raises:
            KeyFileError: the name is taken, or the disk refused.
        """
        self._write(self._path(name), key, replace=False)

    def remove_key(self, name: str) -> None:
        """Delete the file of the key called `name`, if there is one."""
        try:
            self._path(name).unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as exc:
            raise KeyFileError(f"key `{name}` cannot be removed: {exc.strerror}") from exc

    def key_names(self) -> frozenset[str]:
        """Return what the keys are called that lie in the folder; other files are nobody's."""
        return frozenset(
            path.stem for path in self._folder.glob("*.pem") if _NAME.fullmatch(path.stem)
        )

    def _write(self, path: Path, key: PrivateKey, *, replace: bool) -> None:
        """Write a key's file as a whole."""
        encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if self._passphrase is not None:
            encryption = serialization.BestAvailableEncryption(self._passphrase)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        try:
            write_private_file(path, pem, replace=replace)
        except StateError as exc:
            raise KeyFileError(str(exc), help=exc.help) from exc

    def _path(self, name: str) -> Path:
        """Return the file of a key; the alphabet keeps it inside the folder."""
        if not _NAME.fullmatch(name):
            raise KeyFileError(f"`{name}` is not a key name")
        return self._folder / f"{name}.pem"


def read_private_key(pem: bytes, passphrase: bytes | None, where: str) -> PrivateKey:
    """Return the key that `pem` holds, encrypted or not; `where` names it in messages.

    Raises:
        KeyFileError: it cannot be decrypted, or is no key that this house signs with.
    """
    is_encrypted = b"ENCRYPTED" in pem
    if is_encrypted and passphrase is None:
        raise KeyFileError(
            f"{where} is encrypted and no passphrase is configured", help="set keyPassphraseFile"
        )
    try:
        key = serialization.load_pem_private_key(pem, password=passphrase if is_encrypted else None)
        return check_private_key(key)
    except KeyRefusedError as exc:
        raise KeyFileError(f"{where}: {exc}", help=exc.help) from exc
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # WHY `from None`: the parser's words could quote the file.
        if is_encrypted:
            raise KeyFileError(
                f"{where} cannot be decrypted", help="is keyPassphraseFile the one it was made with"
            ) from None
        raise KeyFileError(f"{where} does not hold a PEM private key") from None


def load_passphrase(path: Path) -> bytes:
    """Return the passphrase in the private file `path`, without the newline at its end.

    Raises:
        KeyFileError: it is missing, open to others, or short enough to be guessed.
    """
    try:
        content = read_private_file(path)
    except StateError as exc:
        raise KeyFileError(str(exc), help=exc.help) from exc
    if content is None:
        raise KeyFileError(
            f"passphrase file `{path}` is missing",
            help="make one with `openssl rand -base64 32`, mode 0600, and keep a copy elsewhere",
        )
    passphrase = content.rstrip(b"\r\n")
    if len(passphrase) < _MIN_PASSPHRASE_BYTES:
        raise KeyFileError(
            f"the passphrase in `{path}` has {len(passphrase)} bytes, "
            f"expected {_MIN_PASSPHRASE_BYTES} or more",
            help="make one with `openssl rand -base64 32`; nobody has to type it",
        )
    return passphrase
