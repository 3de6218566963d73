"""The verdict on one token, case by case, and the attacks on it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from identity import jwt_verify
from identity.jose import ALGORITHMS, RegisteredClaims
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.jwt_verify import (
    TokenRefusal,
    VerifiedToken,
    check_claims,
    claim_steps,
    is_in_time,
    verify_token,
)
from identity.token_status import TokenStatus

CASES = yaml.safe_load((Path(__file__).parent / "jwt_verdicts.yaml").read_text())


def encode(raw: bytes) -> str:
    """Return unpadded base64url."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def verdict(ring: Any, text: str, keys: str | None = None, **rule: Any) -> TokenStatus:
    """Return the status of a token under a rule of the tests' issuer."""
    jwks = parse_jwk_set(keys if keys is not None else ring.inline(), is_inline=True)
    outcome = verify_token(
        text, JwtRule(**({"issuer": ring.issuer} | rule)), lambda: jwks, ring.now
    )
    return TokenStatus.OK if isinstance(outcome, VerifiedToken) else outcome.status


def at_clock(value: Any, now: int) -> Any:
    """Return a claim with `now+5` and the like resolved."""
    if isinstance(value, str) and value.startswith(("now+", "now-")):
        return now + int(value[3:])
    return value


@pytest.mark.parametrize("case", CASES, ids=[case["note"] for case in CASES])
def test_verdict(ring: Any, case: dict[str, Any]) -> None:
    """The case's token gets the case's verdict, with Envoy's status code and text."""
    name = case.get("key", "rsa")
    claims = {"iss": ring.issuer, "sub": "alice", "aud": "shop", "exp": ring.now + 600}
    claims |= {key: at_clock(value, ring.now) for key, value in case.get("claims", {}).items()}
    payload = json.dumps({key: value for key, value in claims.items() if value is not None})
    header = case.get("header", {"kid": name})
    alg = case.get("alg", "RS256")
    text = ring.sign(name, alg, {}, payload.encode())
    if header:
        text = (
            ring.sign(name, alg, header, payload.encode())
            if _is_plain(header)
            else _forge(ring, name, header, payload)
        )
    fields = {"issuer": ring.issuer} | case.get("rule", {})
    rule = JwtRule(**{key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()})
    jwks = parse_jwk_set(ring.inline(), is_inline=True)

    outcome = verify_token(text, rule, lambda: jwks, ring.now)

    status = TokenStatus.OK if isinstance(outcome, VerifiedToken) else outcome.status
    assert status == case["want"]
    assert isinstance(outcome, VerifiedToken) is (status == TokenStatus.OK)
    if isinstance(outcome, VerifiedToken):
        assert outcome.payload == json.loads(payload)
    if isinstance(outcome, TokenRefusal):
        assert outcome.public_text == case.get("body", outcome.public_text)
        assert status.http_status == (403 if status == "audience_not_allowed" else 401)


def _is_plain(header: dict[str, Any]) -> bool:
    """Return whether the signing library takes this header."""
    return isinstance(header.get("kid", ""), str)


def _forge(ring: Any, name: str, header: dict[str, Any], payload: str) -> str:
    """Return a token whose header no signing library would write."""
    good = ring.sign(name, "RS256", {}, payload.encode())
    head = encode(json.dumps({"alg": "RS256"} | header).encode())
    return ".".join([head, *good.split(".")[1:]])


def test_alg_none(ring: Any) -> None:
    """A token with alg `none` in any spelling is refused, with and without a signature."""
    payload = ring.mint().split(".")[1]
    for alg in ("none", "None", "NONE", "nOnE", "", "HS1", "RS256 ", "rs256", "ES256K"):
        head = encode(json.dumps({"alg": alg}).encode())
        for signature in ("", "AAAA", ring.mint().split(".")[2]):
            assert verdict(ring, f"{head}.{payload}.{signature}") == TokenStatus.BAD_FORMAT


@pytest.mark.parametrize("encoding", ["pem", "pem without newline", "der", "jwk", "n"])
def test_public_key_as_hmac_secret(ring: Any, encoding: str) -> None:
    """A token signed by HMAC with the public key in any form is refused (alg confusion)."""
    key = ring.keys["rsa"].raw_value.public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = {
        "pem": pem,
        "pem without newline": pem.strip(),
        "der": key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(ring.public_key("rsa")).encode(),
        "n": ring.public_key("rsa")["n"].encode(),
    }[encoding]
    payload = ring.mint().split(".")[1]
    for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "rsa"}):
        signed = f"{encode(json.dumps(header).encode())}.{payload}"
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        for keys in (ring.public(), ring.inline()):
            token = f"{signed}.{encode(mac)}"
            assert verdict(ring, token, keys) == TokenStatus.BAD_SIGNATURE


def test_nothing_else_is_verified_by() -> None:
    """The library's table holds `none` as well; ours has what is accepted, and no more."""
    assert jwt_verify._VERIFIERS.keys() == ALGORITHMS
    assert "none" not in ALGORITHMS


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ("shop", True), ("shop/", True), ("http://shop", True), ("https://shop/", True),
        ("shop//", False), ("http://https://shop", False), ("https://http://shop", False),
        ("HTTP://shop", False), ("shop/x", False), ("Shop", False), ("", False),
    ],
)  # fmt: skip
def test_audiences_that_are_one(given: str, allowed: bool) -> None:
    """One scheme and one slash do not count, on either side."""
    for wanted in ("shop", "https://shop", "shop/", "http://shop/"):
        claims = RegisteredClaims(issuer="i", audiences=("x", given), not_before=0, expires_at=0)
        rule = JwtRule(issuer="i", audiences=("y", wanted))
        assert claim_steps(claims, rule, 0) == (True, True, True, allowed)


def test_embedded_key_is_ignored(ring: Any) -> None:
    """A key that comes inside the token's own header verifies nothing."""
    payload = ring.mint().split(".")[1]
    raw = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    text = ring.sign("stranger", "RS256", {"jwk": ring.public_key("stranger")}, raw)
    assert verdict(ring, text) == TokenStatus.BAD_SIGNATURE


def test_ecdsa_signature_of_zeros(ring: Any) -> None:
    """The all-zero ECDSA signature and others out of range verify nothing."""
    signed, _, _ = ring.mint("p256", "ES256").rpartition(".")
    for signature in (bytes(64), b"\xff" * 64, bytes(1), bytes(63), bytes(65), bytes(2000)):
        assert verdict(ring, f"{signed}.{encode(signature)}") == TokenStatus.BAD_SIGNATURE


def test_no_keys_refuse(ring: Any) -> None:
    """Without keys, or with an empty set, every token is refused."""
    for keys in (None, JwkSet(())):
        rule = JwtRule(issuer=ring.issuer)
        outcome = verify_token(ring.mint(), rule, lambda keys=keys: keys, ring.now)
        assert isinstance(outcome, TokenRefusal)
        assert outcome.status == TokenStatus.NO_KEYS


def test_keys_are_asked_last(ring: Any) -> None:
    """Keys are asked for only once everything that needs none has held."""
    asked: list[int] = []

    def keys() -> JwkSet | None:
        asked.append(1)
        return None

    rule = JwtRule(issuer=ring.issuer, audiences=("shop",))
    for text in ("a.b.c", ring.mint(iss="x"), ring.mint(exp=1), ring.mint(aud="x")):
        verify_token(text, rule, keys, ring.now)
    assert asked == []


def test_jwk_alg_binds(ring: Any) -> None:
    """A key that names its algorithm serves no other one."""
    keys = json.dumps({"keys": [ring.public_key("rsa") | {"alg": "RS512"}]})
    assert verdict(ring, ring.mint(), keys) == TokenStatus.KEY_MISMATCH
    assert verdict(ring, ring.mint(alg="RS512"), keys) == TokenStatus.OK


def test_changed_tokens(ring: Any) -> None:
    """One changed byte of a token's signed text or signature is never verified."""
    text = ring.mint("ed25519", "EdDSA")
    for place in range(0, len(text), 3):
        if text[place] == ".":
            continue
        # Four letters further on: the letter before differs in a bit that is not padding.
        other = "A" if text[place] not in "ABCD" else "z"
        changed = text[:place] + other + text[place + 1 :]
        assert verdict(ring, changed) != TokenStatus.OK


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_any_text_is_judged(ring: Any, data: st.DataObject) -> None:
    """Any text has a verdict, without an exception, and it is never OK."""
    part = st.one_of(st.text(max_size=40), st.binary(max_size=60).map(encode))
    pieces = data.draw(st.lists(part, max_size=5))
    assert verdict(ring, ".".join(pieces)) != TokenStatus.OK


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    claims=st.dictionaries(
        st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "scope", "x"]), JSON
    )
)
def test_any_signed_claims_are_judged(ring: Any, claims: dict[str, Any]) -> None:
    """Whatever a real key has signed gets a verdict; OK only with the rule's issuer."""
    text = ring.sign("ed25519", "EdDSA", {"kid": "ed25519"}, json.dumps(claims).encode())
    status = verdict(ring, text)
    assert status in TokenStatus
    if status is TokenStatus.OK:
        assert claims["iss"] == ring.issuer


@pytest.mark.parametrize("begins", [None, 0, 1000])
@pytest.mark.parametrize("ends", [None, 0, 2000])
@pytest.mark.parametrize(
    "now", [0, 939, 939.9, 940, 999, 1000, 1500, 2059, 2060, 2060.9, 2061, 2061.5, 1e12]
)
def test_times_at_their_borders(begins: int | None, ends: int | None, now: float) -> None:
    """A minute of skew at either end, in whole seconds; what remembers a token asks the same."""
    claims = RegisteredClaims(
        issuer="i", audiences=(), not_before=begins or 0, expires_at=ends or 0
    )
    has_begun = not begins or int(now) >= 940
    has_not_ended = not ends or int(now) <= 2060
    assert claim_steps(claims, JwtRule(issuer="i"), now) == (True, has_begun, has_not_ended, True)
    assert is_in_time(claims, now) is (has_begun and has_not_ended)
    refusal = check_claims(claims, JwtRule(issuer="i"), now)
    want = TokenStatus.OK if has_not_ended else TokenStatus.EXPIRED
    want = want if has_begun else TokenStatus.NOT_YET_VALID
    assert (refusal.status if refusal else TokenStatus.OK) == want


def test_refusals_hold_no_token_text(ring: Any) -> None:
    """Neither text of a refusal quotes the token."""
    jwks = parse_jwk_set(ring.inline(), is_inline=True)
    for text in (ring.mint(exp=1), ring.mint(iss="secret-iss"), "secret.secret.secret"):
        outcome = verify_token(text, JwtRule(issuer=ring.issuer), lambda: jwks, ring.now)
        assert isinstance(outcome, TokenRefusal)
        assert "secret" not in json.dumps(dataclasses.asdict(outcome))
