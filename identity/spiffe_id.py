"""SPIFFE IDs and trust domains, to the letter of the SPIFFE-ID standard.

Spec: SPIFFE-ID §2 (syntax), §2.1 (trust domain), §2.2 (path), §2.3 (length).
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
        if len(self.name) > _MAX_TRUST_DOMAIN_BYTES:
            raise SpiffeIdError(self.name[:64], "the trust domain is longer than 255 bytes")
        if not _TRUST_DOMAIN.fullmatch(self.name):
            raise SpiffeIdError(
                self.name, "a trust domain holds only lower-case letters, digits, `.`, `-` and `_`"
            )

    def __str__(self) -> str:
        """Return the bare name, without scheme."""
        return self.name


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """A parsed SPIFFE ID; `path` is empty for the ID of the trust domain itself."""

    trust_domain: TrustDomain
    path: str

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
        # §2.3: "A SPIFFE ID ... maximum length of 2048 bytes".
        if len(text.encode("utf-8", "surrogatepass")) > _MAX_ID_BYTES:
            raise SpiffeIdError(text[:64], "the ID is longer than 2048 bytes")
        if not text.startswith(_SCHEME):
            raise SpiffeIdError(text, "the ID does not start with `spiffe://`")
        name, slash, path = text[len(_SCHEME) :].partition("/")
        if not name:
            raise SpiffeIdError(text, "the trust domain is empty")
        trust_domain = TrustDomain(name)
        if slash:
            _check_segments(text, path.split("/"))
        return cls(trust_domain, slash + path)


def _check_segments(text: str, segments: list[str]) -> None:
    """Refuse empty, dot and out-of-alphabet path segments (SPIFFE-ID §2.2)."""
    for segment in segments:
        if not segment:
            raise SpiffeIdError(text, "the path has an empty segment or a trailing `/`")
        if segment in (".", ".."):
            raise SpiffeIdError(text, "the path has a `.` or `..` segment")
        if not _SEGMENT.fullmatch(segment):
            raise SpiffeIdError(text, "a path segment holds only letters, digits, `.`, `-` and `_`")
