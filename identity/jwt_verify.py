"""The verdict on one token under one rule.

Spec: RFC 7519 §7.2; Istio RequestAuthentication; the order of the checks is that
of Envoy's `jwt_authn` filter, so that the same fault is reported first.
PyJWT and `cryptography` check signatures; what is checked is decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from jwt.algorithms import Algorithm, get_default_algorithms
from jwt.exceptions import PyJWTError

from identity.claims import VerifiedClaims
from identity.jose import (
    ALGORITHMS,
    RegisteredClaims,
    TokenFormatError,
    UnverifiedToken,
    parse_token,
)
from identity.jwks import Jwk, JwkSet
from identity.jwt_rule import JwtRule
from identity.token_status import TokenStatus

# Envoy's default clock skew; Istio does not change it.
CLOCK_SKEW_SECONDS: Final = 60
# INVARIANT: exactly the algorithms of `jose.ALGORITHMS`; PyJWT's table holds `none` as well.
_VERIFIERS: Final[Mapping[str, Algorithm]] = {
    name: algorithm for name, algorithm in get_default_algorithms().items() if name in ALGORITHMS
}


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token whose issuer, times and audience held, and that somebody we trust stands behind.

    Made by `verify_token` for a signature that held, and by `identity.introspection`
    for an answer of the issuer itself; nowhere else. `split` is what `identity.token_outputs`
    made of the payload, by the names of the claims that were split: a token that is remembered
    is split once.
    """

    payload: Mapping[str, Any]
    payload_text: str
    claims: RegisteredClaims
    split: dict[tuple[str, ...], VerifiedClaims] = field(
        default_factory=dict, repr=False, compare=False
    )


@dataclass(frozen=True, slots=True)
class TokenRefusal:
    """Why a token is not believed.

    `public_text` is for the caller, `detail` for the record; neither holds token text.
    """

    status: TokenStatus
    public_text: str
    detail: str


Verdict = VerifiedToken | TokenRefusal
"""What one rule makes of one token."""


class Verify(Protocol):
    """Judges one token under one rule; `verify_token` does, and what remembers its verdicts."""

    def __call__(
        self, text: str, rule: JwtRule, keys: Callable[[], JwkSet | None], now: float
    ) -> Verdict:
        """Return the token with its proof, or why it is refused."""


def verify_token(
    text: str, rule: JwtRule, keys: Callable[[], JwkSet | None], now: float
) -> Verdict:
    """Return the token with its proof, or why it is refused.

    `keys` is asked only for a token that passed every cheaper check; None means
    that the issuer's keys could not be had. `now` is seconds since the epoch.
    """
    try:
        token = parse_token(text)
    except TokenFormatError as exc:
        return TokenRefusal(TokenStatus.BAD_FORMAT, exc.public_text, exc.public_text)
    refusal = check_claims(token.claims, rule, now)
    if refusal is not None:
        return refusal
    status, detail = _check_signature(token, keys())
    if status is not TokenStatus.OK:
        return TokenRefusal(status, status.public_text, detail)
    return VerifiedToken(token.payload, token.payload_text, token.claims)


def check_claims(claims: RegisteredClaims, rule: JwtRule, now: float) -> TokenRefusal | None:
    """Return why issuer, times or audience speak against a token; None when none of them does."""
    for status, holds, detail in _CLAIM_CHECKS:
        if not holds(claims, rule, int(now)):
            return TokenRefusal(status, status.public_text, detail)
    return None


def claim_steps(claims: RegisteredClaims, rule: JwtRule, now: float) -> tuple[bool, ...]:
    """Return whether issuer, beginning, expiry and audience hold, in the order of the checks."""
    return tuple(holds(claims, rule, int(now)) for _, holds, _ in _CLAIM_CHECKS)


def is_in_time(claims: RegisteredClaims, now: float) -> bool:
    """Return whether a token may be used now, give or take the clock skew."""
    at = int(now)
    return at + CLOCK_SKEW_SECONDS >= claims.not_before and (
        claims.expires_at == 0 or at <= claims.expires_at + CLOCK_SKEW_SECONDS
    )


def _has_known_issuer(claims: RegisteredClaims, rule: JwtRule, _now: int) -> bool:
    """Return whether the rule names this issuer, or any."""
    return not rule.issuer or claims.issuer == rule.issuer


def _has_begun(claims: RegisteredClaims, _rule: JwtRule, now: int) -> bool:
    """Return whether `nbf` has come (RFC 7519 §4.1.5)."""
    return now + CLOCK_SKEW_SECONDS >= claims.not_before


def _has_not_expired(claims: RegisteredClaims, _rule: JwtRule, now: int) -> bool:
    """Return whether `exp` has not passed; without it a token never expires, as in Envoy."""
    return claims.expires_at == 0 or now <= claims.expires_at + CLOCK_SKEW_SECONDS


def _has_allowed_audience(claims: RegisteredClaims, rule: JwtRule, _now: int) -> bool:
    """Return whether the token is meant for one of the rule's audiences, if it names any."""
    if not rule.audiences:
        return True
    allowed = {_bare_audience(audience) for audience in rule.audiences}
    return not allowed.isdisjoint(map(_bare_audience, claims.audiences))


def _bare_audience(audience: str) -> str:
    """Return the audience without scheme and one trailing slash, as Envoy compares them."""
    for scheme in ("http://", "https://"):
        if audience.startswith(scheme):
            audience = audience[len(scheme) :]
            break
    return audience.removesuffix("/")


_CLAIM_CHECKS: Final = (
    (TokenStatus.UNKNOWN_ISSUER, _has_known_issuer, "the rule names another issuer than `iss`"),
    (TokenStatus.NOT_YET_VALID, _has_begun, "`nbf` has not come yet"),
    (TokenStatus.EXPIRED, _has_not_expired, "`exp` has passed"),
    (TokenStatus.AUDIENCE_NOT_ALLOWED, _has_allowed_audience, "`aud` names none of the audiences"),
)


def _check_signature(token: UnverifiedToken, keys: JwkSet | None) -> tuple[TokenStatus, str]:
    """Return OK only where one key of the set verifies the signature."""
    if keys is None or not keys.keys:
        return TokenStatus.NO_KEYS, "the issuer has no usable keys"
    eligible = keys.eligible(token.kid, token.alg)
    if not eligible:
        return TokenStatus.KEY_MISMATCH, "no key has the `kid` and `alg` of the token"
    if any(is_signed_by(token, key) for key in eligible):
        return TokenStatus.OK, ""
    return TokenStatus.BAD_SIGNATURE, "no eligible key verifies the signature"


def is_signed_by(token: UnverifiedToken, key: Jwk) -> bool:
    """Return whether this key verifies the signature.

    INVARIANT: the key decides which algorithms it serves, never the token, so an
    RSA public key is not taken for an HMAC secret (RFC 8725 §2.1, §3.1).
    """
    if token.alg not in key.algorithms:
        return False
    verifier = _VERIFIERS[token.alg]
    try:
        return verifier.verify(token.signing_input, key.key, token.signature) is True
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        return False
