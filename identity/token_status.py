"""What can be said of a token, with Envoy's text and status for each."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class TokenStatus(StrEnum):
    """The verdict on a token, or on the tokens of a whole request."""

    OK = "ok"
    MISSING = "missing"
    BAD_FORMAT = "bad_format"
    UNKNOWN_ISSUER = "unknown_issuer"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    AUDIENCE_NOT_ALLOWED = "audience_not_allowed"
    NO_KEYS = "no_keys"
    KEY_MISMATCH = "key_mismatch"
    BAD_SIGNATURE = "bad_signature"
    INACTIVE = "inactive"
    INTROSPECTION_FAILED = "introspection_failed"

    @property
    def http_status(self) -> int:
        """403 for a wrong audience, 401 for everything else (Envoy's `jwt_authn`)."""
        return 403 if self is TokenStatus.AUDIENCE_NOT_ALLOWED else 401

    @property
    def public_text(self) -> str:
        """The body Envoy sends; a format fault has a text of its own instead."""
        return _PUBLIC_TEXT[self]


_PUBLIC_TEXT: Final = {
    TokenStatus.OK: "OK",
    TokenStatus.MISSING: "Jwt is missing",
    TokenStatus.BAD_FORMAT: "Jwt is not in the form of Header.Payload.Signature "
    "with two dots and 3 sections",
    TokenStatus.UNKNOWN_ISSUER: "Jwt issuer is not configured",
    TokenStatus.NOT_YET_VALID: "Jwt not yet valid",
    TokenStatus.EXPIRED: "Jwt is expired",
    TokenStatus.AUDIENCE_NOT_ALLOWED: "Audiences in Jwt are not allowed",
    # WHY not "Jwks remote fetch is failed": Istio puts a key nobody can sign for in
    # place of keys it cannot fetch, so its callers read this text.
    TokenStatus.NO_KEYS: "Jwt verification fails",
    TokenStatus.KEY_MISMATCH: "Jwks doesn't have key to match kid or alg from Jwt",
    TokenStatus.BAD_SIGNATURE: "Jwt verification fails",
    # Envoy's jwt_authn knows no opaque tokens, so these two texts are ours.
    TokenStatus.INACTIVE: "Token is not active",
    TokenStatus.INTROSPECTION_FAILED: "Token introspection fails",
}
