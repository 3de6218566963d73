"""What can be wrong with an identity.

IdentityError
├── SpiffeIdError        a text is not a canonical SPIFFE ID
├── CertificateError     a client certificate cannot be read
├── XfccError            an X-Forwarded-Client-Cert header departs from its grammar
├── MappingError         a mapping of identities could name two workloads alike
├── BundleError          a trust bundle cannot be read or had (in `trust_bundle`)
├── TokenError           a token cannot be believed (the caller's fault)
└── KeySourceError       keys cannot be had (the operator's or the issuer's fault)
    └── KeySourceUnreachableError   there was no answer at all
"""

from __future__ import annotations


class IdentityError(Exception):
    """The root of this package's errors; never raised itself."""

    code = "identity.error"


class SpiffeIdError(IdentityError):
    """A text is not a canonical SPIFFE ID (SPIFFE-ID §2)."""

    code = "identity.spiffe_id"

    def __init__(self, text: str, why: str) -> None:
        """Keep the offending text and the one clause that says why."""
        super().__init__(f"`{text}` is not a SPIFFE ID: {why}")
        self.text = text
        self.why = why


class CertificateError(IdentityError):
    """A client certificate cannot be read."""

    code = "identity.certificate"


class XfccError(IdentityError):
    """An X-Forwarded-Client-Cert header departs from its grammar; never quotes the header."""

    code = "identity.xfcc"


class MappingError(IdentityError):
    """A mapping of identities is wrong, or could give two workloads one name."""

    code = "identity.mapping"


class TokenError(IdentityError):
    """A token cannot be believed; `why` never holds token text."""

    code = "identity.token"


class KeySourceError(IdentityError):
    """The verification keys of an issuer cannot be had."""

    code = "identity.key_source"


class KeySourceUnreachableError(KeySourceError):
    """There was no answer at all: nothing listens, or nothing came within the time."""

    code = "identity.key_source_unreachable"
