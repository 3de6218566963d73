"""SPIFFE IDs and trust domains, to the letter of the SPIFFE-ID standard.

Spec: SPIFFE-ID §2 (syntax), §2.1 (trust domain), §2.2 (path), §2.3 (length), §2.4 (case).
Input that is not canonical is refused, never folded: two spellings of one
identity are two chances to disagree about who is asking.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from identity.errors import SpiffeIdError

_SCHEME = "spiffe://"
_MAX_ID_BYTES = 2048
_MAX_TRUST_DOMAIN_BYTES = 255
# WHY fullmatch below and not `$`: `$` also matches before a final newline.
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """A trust domain name: lower-case letters, digits, `.`, `-` and `_`."""

    name: str

    def __post_init__(self) -> None:
        """Refuse a name outside the standard's alphabet or length."""
        # §2.3: "the maximum length of a trust domain name is 255 bytes".
        if len(self.name) > _MAX_TRUST_DOMAIN_BYTES:
            raise SpiffeIdError(_shown(self.name), "the trust domain is longer than 255 bytes")
        # §2.1: no userinfo, port or percent-encoding, lower case, `[a-z0-9.-_]`. What looks like
        # an IPv4 address or no DNS name at all is one like any other.
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise SpiffeIdError(
                _shown(self.name),
                "a trust domain holds only lower-case letters, digits, `.`, `-` and `_`",
            )

    def __str__(self) -> str:
        """Return the bare name, without scheme."""
        return self.name


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A parsed SPIFFE ID; `path` is empty for the ID of the trust domain itself."""

    trust_domain: TrustDomain
    path: str

    def __post_init__(self) -> None:
        """Refuse a path that no canonical ID has, however the value was made."""
        if self.path:
            _check_path(self.path)
        if len(_SCHEME) + len(self.trust_domain.name) + len(self.path) > _MAX_ID_BYTES:
            raise SpiffeIdError(_shown(self.path), "the ID is longer than 2048 bytes")

    def __str__(self) -> str:
        """Return the ID as a URI."""
        return f"{_SCHEME}{self.trust_domain.name}{self.path}"

    @property
    def segments(self) -> tuple[str, ...]:
        """The path split at `/`, without the leading empty piece."""
        return tuple(self.path.split("/")[1:])

    @classmethod
    def parse(cls, text: str) -> SpiffeId:
        """Return the ID that `text` spells.

        Raises:
            SpiffeIdError: `text` is not a canonical SPIFFE ID.
        """
        # §2.3: "implementations MUST support SPIFFE URIs up to 2048 bytes". Characters are
        # bytes here: what is not ASCII is refused below whatever its length.
        if len(text) > _MAX_ID_BYTES:
            raise SpiffeIdError(_shown(text), "the ID is longer than 2048 bytes")
        # §2: "MUST have the scheme set to `spiffe`". §2.4 calls scheme and trust domain
        # case-insensitive, §2.1 wants lower case: we take only the one spelling.
        if not text.startswith(_SCHEME):
            raise SpiffeIdError(_shown(text), "the ID does not start with `spiffe://`")
        # §2: no query or fragment. Neither `?` nor `#` is in an alphabet below.
        name, slash, path = text[len(_SCHEME) :].partition("/")
        if not name:
            raise SpiffeIdError(_shown(text), "the trust domain is empty")
        return cls(TrustDomain(name), slash + path)


def _check_path(path: str) -> None:
    """Refuse empty, dot and out-of-alphabet path segments (SPIFFE-ID §2.2)."""
    root, *segments = path.split("/")
    if root or not segments:
        raise SpiffeIdError(_shown(path), "the path does not start with `/`")
    for segment in segments:
        if not segment:
            raise SpiffeIdError(_shown(path), "the path has an empty segment or a trailing `/`")
        if segment in (".", ".."):
            raise SpiffeIdError(_shown(path), "the path has a `.` or `..` segment")
        if not _SEGMENT.fullmatch(segment):
            raise SpiffeIdError(
                _shown(path), "a path segment holds only letters, digits, `.`, `-` and `_`"
            )


def _shown(text: str) -> str:
    """Return the beginning of a text as one printable line: it may be an attacker's."""
    clean = "".join(char if char.isascii() and char.isprintable() else "?" for char in text[:80])
    return clean if len(text) <= len(clean) else f"{clean}..."
