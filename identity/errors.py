"""What can be wrong with an identity.

IdentityError
├── SpiffeIdError        a text is not a canonical SPIFFE ID
├── CertificateError     a client certificate cannot be read
├── TokenError           a token cannot be believed (the caller's fault)
└── KeySourceError       keys cannot be had (the operator's or the issuer's fault)
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


class TokenError(IdentityError):
    """A token cannot be believed; `why` never holds token text."""

    code = "identity.token"


class KeySourceError(IdentityError):
    """The verification keys of an issuer cannot be had."""

    code = "identity.key_source"
