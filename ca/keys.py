"""Where private keys of authorities live: the `KeyStore` seam and the store on disk.

A PKCS#11 or KMS store fills the same seam: what it returns only has to sign.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ca.errors import KeyFileError, StateError
from ca.files import (
    make_private_folder,
    read_private_file,
    sweep_temporary_files,
    sync_folder,
    write_private_file,
)

_NAME = re.compile(r"[a-z0-9-]{1,80}", re.ASCII)


def generate_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key.

    WHY P-256: Envoy and gRPC refuse Ed25519 peers, and every SPIFFE library reads P-256.
    """
    return ec.generate_private_key(ec.SECP256R1())


class KeyStore(Protocol):
    """Keeps the private keys of authorities under names of lower-case letters, digits and `-`."""

    def load_key(self, name: str) -> ec.EllipticCurvePrivateKey | None:
        """Return the key called `name`, or None when there is none."""

    def store_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Keep `key` durably under the new name `name`; a taken name is an error."""

    def remove_key(self, name: str) -> None:
        """Forget the key called `name`, if there is one."""


class FileKeyStore:
    """Keys as PKCS#8 PEM files of mode 0600 in one folder of mode 0700."""

    def __init__(self, folder: Path) -> None:
        """Make or check the folder, and sweep what a killed writer left in it."""
        make_private_folder(folder)
        sweep_temporary_files(folder)
        self._folder = folder

    def load_key(self, name: str) -> ec.EllipticCurvePrivateKey | None:
        """Return the key called `name`, or None when there is no such file.

        Raises:
            KeyFileError: the file is open to others, or does not hold an EC P-256 key.
        """
        path = self._path(name)
        try:
            pem = read_private_file(path)
        except StateError as exc:
            raise KeyFileError(str(exc), help=exc.help) from exc
        if pem is None:
            return None
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # WHY `from None`: the parser's words could quote the file.
            raise KeyFileError(f"key file `{path}` does not hold a PEM private key") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise KeyFileError(f"key file `{path}` does not hold an EC P-256 key")
        return key

    def store_key(self, name: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Write `key` under the new name `name`.

        Raises:
            KeyFileError: the name is taken, or the disk refused.
        """
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        try:
            write_private_file(self._path(name), pem, replace=False)
        except StateError as exc:
            raise KeyFileError(str(exc), help=exc.help) from exc

    def remove_key(self, name: str) -> None:
        """Delete the file of the key called `name`, if there is one."""
        try:
            self._path(name).unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as exc:
            raise KeyFileError(f"key `{name}` cannot be removed: {exc.strerror}") from exc

    def _path(self, name: str) -> Path:
        """Return the file of a key; the alphabet keeps it inside the folder."""
        if not _NAME.fullmatch(name):
            raise KeyFileError(f"`{name}` is not a key name")
        return self._folder / f"{name}.pem"
