"""Which way a text at a token's place is judged: as a JWT, or by asking its issuer.

A text is opaque only when it has not the shape of a JWS. A JWT that does not hold is
refused and never tried the other way, for an issuer might call a token active that
the rule's keys or audiences refuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from identity.jose import has_jws_shape
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from identity.jwt_verify import Verdict, Verify


class AskIssuer(Protocol):
    """Judges opaque tokens; `identity.introspection` does."""

    def __call__(self, text: str, rule: JwtRule, now: float) -> Verdict | None:
        """Return the verdict, or None when the rule's issuer cannot be asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenVerifier:
    """Judges JWTs by `verify_jwt` and, where the rule's issuer can be asked, other texts by it."""

    verify_jwt: Verify
    ask_issuer: AskIssuer

    def verify(
        self, text: str, rule: JwtRule, keys: Callable[[], JwkSet | None], now: float
    ) -> Verdict:
        """Return the token with its proof, or why it is refused; as `verify_token`."""
        verdict = None if has_jws_shape(text) else self.ask_issuer(text, rule, now)
        return self.verify_jwt(text, rule, keys, now) if verdict is None else verdict
