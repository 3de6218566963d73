"""The throw-away issuer of a test run: mints tokens, and hands its key to every rule."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from authz.policytest.model import TokenFixture, to_seconds
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule

_DEFAULT_LIFE = "1h"
_KEY_ID = "policy-test"


class FixtureError(Exception):
    """A fixture cannot be made; the message names it."""


class TestIssuer:
    """Stands for every issuer that the policies under test name."""

    __test__ = False

    def __init__(self) -> None:
        """Make a key, and a stranger's."""
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._stranger = ec.generate_private_key(ec.SECP256R1())
        jwk = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        jwk.update(kid=_KEY_ID, alg="ES256", use="sig")
        self._keys = parse_jwk_set(json.dumps({"keys": [jwk]}), is_inline=True)

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the test key, whatever the rule says of where keys are."""
        return self._keys

    def mint(self, name: str, fixtures: Mapping[str, TokenFixture], now: datetime) -> str:
        """Return the compact token of a fixture.

        Raises:
            FixtureError: the fixture, or one it comes from, does not exist.
        """
        fixture = _merged(name, fixtures, ())
        key = self._stranger if fixture.tamper == "key" else self._key
        # WHY not `jwt.encode`: a test may hold what no honest issuer signs, an `iss` of no text.
        claims = json.dumps(_claims(fixture, now), separators=(",", ":")).encode()
        token = jwt.PyJWS().encode(claims, key, "ES256", headers={"kid": _KEY_ID})
        if fixture.tamper == "signature":
            head, payload, signature = token.split(".")
            flipped = "A" if signature[0] != "A" else "B"
            return f"{head}.{payload}.{flipped}{signature[1:]}"
        if fixture.tamper == "payload":
            return _with_changed_payload(token)
        return token


def _merged(name: str, fixtures: Mapping[str, TokenFixture], seen: tuple[str, ...]) -> TokenFixture:
    """Return a fixture with what it leaves out taken from the one it comes from."""
    if name not in fixtures:
        raise FixtureError(f"no token `{name}` is defined")
    if name in seen:
        raise FixtureError(f"the tokens {' -> '.join((*seen, name))} come from each other")
    fixture = fixtures[name]
    if not fixture.from_:
        return fixture
    base = _merged(fixture.from_, fixtures, (*seen, name))
    written = {key: getattr(fixture, key) for key in fixture.model_fields_set - {"from_"}}
    if "claims" in written:
        written["claims"] = {**base.claims, **fixture.claims}
    return base.model_copy(update=written)


def _claims(fixture: TokenFixture, now: datetime) -> dict[str, Any]:
    at = int(now.timestamp())
    claims: dict[str, Any] = {"iat": at, "exp": at + to_seconds(fixture.exp or _DEFAULT_LIFE)}
    if fixture.nbf is not None:
        claims["nbf"] = at + to_seconds(fixture.nbf)
    if fixture.aud is not None:
        claims["aud"] = fixture.aud if isinstance(fixture.aud, str) else list(fixture.aud)
    named = {"iss": fixture.issuer, "sub": fixture.sub}
    claims.update({key: value for key, value in named.items() if value is not None})
    return {**claims, **fixture.claims}


def _with_changed_payload(token: str) -> str:
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    claims["sub"] = f"{claims.get('sub', '')}-forged"
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{head}.{changed}.{signature}"
