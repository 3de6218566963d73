"""Signed notes: a text and, below an empty line, who vouches for it, by Ed25519.

A note is plain text that ends in a newline, an empty line, and signature lines:
    — NAME BASE64(4 bytes of key id, signature)
The key id is the begin of SHA-256(NAME, newline, 0x01, public key). A verifier's
key travels as one line of text, `NAME+KEYID+BASE64(0x01, public key)`.

Spec: C2SP signed-note v1.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import AuditKeyError, CheckpointError, UnknownSignerError

_ED25519: Final = b"\x01"
_PUBLIC_BYTES: Final = 32
_KEY_ID_BYTES: Final = 4
_MARK: Final = "— "
_MAX_NOTE_BYTES: Final = 64 * 1024  # BUDGET: a note of ours is below 1 KiB; witnesses add lines


@dataclass(frozen=True, slots=True)
class NoteSigner:
    """A name and the private key that speaks for it."""

    name: str
    key: Ed25519PrivateKey

    @property
    def verifier(self) -> NoteVerifier:
        """The public half."""
        return NoteVerifier(self.name, self.key.public_key())

    def sign(self, text: str) -> bytes:
        """Return the note of `text`, which ends in a newline."""
        signature = self.key.sign(text.encode())
        blob = base64.b64encode(self.verifier.key_id + signature).decode()
        return f"{text}\n{_MARK}{self.name} {blob}\n".encode()


@dataclass(frozen=True, slots=True)
class NoteVerifier:
    """A name and the public key that its notes are checked with.

    `former` are the keys and names that checkpoints of the same log may be signed with as well.
    """

    name: str
    key: Ed25519PublicKey
    former: tuple[NoteVerifier, ...] = ()

    @property
    def key_id(self) -> bytes:
        """The four bytes that tell this key from others."""
        hashed = hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.key.public_bytes_raw())
        return hashed.digest()[:_KEY_ID_BYTES]

    def __str__(self) -> str:
        """Return the key as a line of text, to hand to an auditor."""
        blob = base64.b64encode(_ED25519 + self.key.public_bytes_raw()).decode()
        return f"{self.name}+{self.key_id.hex()}+{blob}"

    def of_worker(self, worker: str) -> NoteVerifier:
        """Return the verifier of one worker of this name, which signs as `NAME/WORKER`."""
        former = tuple(each.of_worker(worker) for each in self.former)
        is_its_own = not worker or self.name.endswith(f"/{worker}")
        return NoteVerifier(self.name if is_its_own else f"{self.name}/{worker}", self.key, former)

    def signer_of(self, note: bytes) -> str:
        """Return which of these keys signed a note, as `NAME+KEYID`; empty where none did."""
        for each in (self, *self.former):
            with suppress(CheckpointError):
                each.check(note)
                return f"{each.name}+{each.key_id.hex()}"
        return ""

    def check(self, note: bytes) -> str:
        """Return the text of a note that this key signed.

        Raises:
            CheckpointError: the note is none, or bears no good signature of this key.
        """
        text, lines = split_note(note)
        for line in lines:
            name, _, blob = line.removeprefix(_MARK).partition(" ")
            signed = _decode(blob)
            if name != self.name or signed[:_KEY_ID_BYTES] != self.key_id:
                # "Verifiers MUST ignore signatures from unknown keys"
                continue
            try:
                self.key.verify(signed[_KEY_ID_BYTES:], text.encode())
            except InvalidSignature as exc:
                raise CheckpointError(f"the signature of `{self.name}` is not good") from exc
            return text
        other = ", ".join(f"`{each}`" for each in map(_claimed, lines))
        why = f"it bears no signature of `{self.name}` with this key, but one that says {other}"
        raise UnknownSignerError(why)


def split_note(note: bytes) -> tuple[str, list[str]]:
    """Return a note's text and its signature lines, unchecked.

    Raises:
        CheckpointError: the bytes are no signed note.
    """
    if len(note) > _MAX_NOTE_BYTES:
        raise CheckpointError("it is too long for a signed note")
    try:
        whole = note.decode()
    except UnicodeDecodeError as exc:
        raise CheckpointError("it is not UTF-8") from exc
    text, gap, signatures = whole.rpartition("\n\n")
    lines = signatures.removesuffix("\n").split("\n")
    if not gap or not signatures.endswith("\n"):
        raise CheckpointError("it is not a signed note")
    if not all(line.startswith(_MARK) and " " in line[len(_MARK) :] for line in lines):
        raise CheckpointError("it is not a signed note")
    return text + "\n", lines


def new_private_key() -> bytes:
    """Return a new Ed25519 private key in PEM (PKCS #8, not encrypted)."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_signer(path: Path, name: str) -> NoteSigner:
    """Return the signer of an Ed25519 private key in PEM (PKCS #8, not encrypted).

    Raises:
        AuditKeyError: the file cannot be read or holds no such key, or the name is none.
    """
    _check_name(name)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as exc:
        raise AuditKeyError(f"the key file `{path}` cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise AuditKeyError(f"`{path}` is no unencrypted private key in PEM") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise AuditKeyError(f"`{path}` is no Ed25519 key")
    return NoteSigner(name, key)


def parse_verifier(text: str) -> NoteVerifier:
    """Return the verifier in a line `NAME+KEYID+BASE64`.

    Raises:
        AuditKeyError: the text is no such key. It is not told, for it may be a private one.
    """
    if "PRIVATE KEY" in text:
        raise AuditKeyError(
            "this is a private key, which nobody needs who verifies: `meshwarden audit "
            "verifier-key` prints the verifier key that belongs to it"
        )
    name, _, rest = text.strip().partition("+")
    key_id, _, blob = rest.partition("+")
    data = _decode(blob)
    if not _is_name(name) or len(data) != 1 + _PUBLIC_BYTES or data[:1] != _ED25519:
        raise AuditKeyError("the verifier key is not of the form NAME+KEYID+BASE64 with Ed25519")
    found = NoteVerifier(name, Ed25519PublicKey.from_public_bytes(data[1:]))
    if found.key_id.hex() != key_id:
        raise AuditKeyError("the verifier key does not fit its own key id")
    return found


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise AuditKeyError(f"`{name}` is no name for a key: no blanks and no `+`")


def _is_name(name: str) -> bool:
    # "key name MUST be non-empty, not contain any Unicode spaces or plus (U+002B) characters"
    is_printed = name.isprintable() and not any(sign.isspace() for sign in name)
    return bool(name) and is_printed and "+" not in name


def _claimed(line: str) -> str:
    """Return the name and the key id that a signature line claims, as a verifier key begins."""
    name, _, blob = line.removeprefix(_MARK).partition(" ")
    return f"{name}+{_decode(blob)[:_KEY_ID_BYTES].hex()}"


def _decode(blob: str) -> bytes:
    try:
        found = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return b""
    # WHY: bits beyond the last byte could be changed and nobody would see it.
    return found if base64.b64encode(found).decode() == blob else b""
