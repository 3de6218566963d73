"""Values that stand on record as a keyed hash: equal ones can be told, none can be read.

Spec: HMAC (RFC 2104) with SHA-256, the first half of it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from audit.errors import AuditKeyError
from audit.settings import AuditSettings

PREFIX: Final = "hmac-sha256:"
_DIGITS: Final = 32
_LEAST_BYTES: Final = 32
_MOST_BYTES: Final = 4096


class KeyedHash:
    """A key, and the names of the headers and claims whose values it hides. Immutable."""

    def __init__(
        self, key: bytes, *, headers: Iterable[str] = (), claims: Iterable[str] = ()
    ) -> None:
        """Keep the key; names of headers in any case."""
        self._key = key
        self.headers = frozenset(name.lower() for name in headers)
        self.claims = frozenset(claims)

    def text(self, text: str) -> str:
        """Return the hash of a text."""
        raw = text.encode("utf-8", "surrogatepass")
        return PREFIX + hmac.digest(self._key, raw, "sha256").hex()[:_DIGITS]

    def value(self, value: Any) -> str:
        """Return the hash of a claim: of a text as it is, of anything else by its JSON."""
        if isinstance(value, str):
            return self.text(value)
        return self.text(json.dumps(value, sort_keys=True, default=str))


def open_keyed_hash(settings: AuditSettings) -> KeyedHash | None:
    """Return what hides values by their hash, or None where no name is given.

    Raises:
        AuditKeyError: the key cannot be read, or is too short to hide anything.
    """
    file = settings.hash_key_file
    if file is None or not (settings.hashed_headers or settings.hashed_claims):
        return None
    key = _read(file)
    if not _LEAST_BYTES <= len(key) <= _MOST_BYTES:
        raise AuditKeyError(
            f"`{file}` holds {len(key)} bytes: a key of hashes has {_LEAST_BYTES} to {_MOST_BYTES}"
        )
    return KeyedHash(key, headers=settings.hashed_headers, claims=settings.hashed_claims)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes().removesuffix(b"\n")
    except OSError as exc:
        raise AuditKeyError(f"`{file}` cannot be read: {exc.strerror}") from exc
