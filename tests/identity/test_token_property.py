"""Whatever arrives as a token: verified, absent, or a named refusal; verified only by a key.

The oracle is not our code: a token that we call verified must hold for a bare
`cryptography` check of one of the published keys over the very bytes that arrived.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from identity.introspection import IntrospectionProvider, Introspector
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule, TokenHeader
from identity.jwt_verify import verify_token
from identity.request_authentication import Authentication, authenticate_request
from identity.token_memory import TokenMemory
from identity.token_status import TokenStatus
from identity.token_verifier import TokenVerifier

ANY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None
)
NAMES = ("rsa", "p256", "ed25519")


class Keys:
    """One set for every rule, or none."""

    def __init__(self, keys: JwkSet | None) -> None:
        self._keys = keys

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the set."""
        return self._keys


def encode(raw: bytes) -> str:
    """Return unpadded base64url."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def is_signed(ring: Any, text: str) -> bool:
    """Return whether one of the published keys verifies this very text, by `cryptography` alone."""
    signed, _, last = text.rpartition(".")
    data, signature = signed.encode(), decode(last)
    half = len(signature) // 2
    der = encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
    public = {name: ring.keys[name].raw_value.public_key() for name in NAMES}
    checks = (
        lambda: public["ed25519"].verify(signature, data),
        lambda: public["p256"].verify(der, data, ec.ECDSA(hashes.SHA256())),
        *(
            lambda hash_=hash_: public["rsa"].verify(signature, data, padding.PKCS1v15(), hash_)
            for hash_ in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512())
        ),
    )
    for check in checks:
        try:
            check()
        except InvalidSignature:
            continue
        return True
    return False


def ask(ring: Any, rule: JwtRule, **fields: Any) -> Authentication:
    """Authenticate a request that is plain but for the fields given."""
    request: dict[str, Any] = {
        "method": "GET",
        "path": "/",
        "host": "h",
        "scheme": "https",
        "headers": {},
        "keys": Keys(parse_jwk_set(ring.public(*NAMES), is_inline=False)),
        "now": float(ring.now),
    }
    return authenticate_request([rule], **(request | fields))


def outcome_of(ring: Any, found: Authentication) -> str:
    """Return which of the three outcomes it is, after checking that it is exactly one."""
    if found.failure is not None:
        assert found.claims is None
        assert found.failure.status in set(TokenStatus) - {TokenStatus.OK, TokenStatus.MISSING}
        assert found.failure.http_status in (401, 403)
        return str(found.failure.status)
    if found.claims is None:
        assert found.set_request_headers == ()
        return "absent"
    assert found.claims.issuer == ring.issuer
    return "verified"


def with_letter(text: str, place: int, letter: str) -> str:
    """Return the text with another letter at a place."""
    at = place % len(text)
    return text[:at] + letter + text[at + 1 :]


def with_bearer(raw: bytes) -> str:
    """Return a header value whose token has three parts."""
    return f"Bearer {encode(raw)}.{encode(raw)}.{encode(raw)}"


def mutations(tokens: list[str]) -> st.SearchStrategy[str]:
    """Return tokens cut, spliced, changed in letters, and parts of several put together."""
    letters = st.sampled_from("ABCxyz019-_.=+/ \n\0é")
    changed = st.builds(
        with_letter,
        st.sampled_from(tokens),
        st.integers(0, 5000),
        letters,
    )
    cut = st.builds(
        lambda text, start, end: text[start % 7 : len(text) - end % 9],
        st.sampled_from(tokens),
        st.integers(0, 6),
        st.integers(0, 8),
    )
    pieces = st.sampled_from([part for text in tokens for part in text.split(".")])
    spliced = st.lists(pieces | st.just(""), max_size=5).map(".".join)
    return changed | cut | spliced | st.sampled_from(tokens)


@pytest.fixture(scope="module")
def tokens(ring: Any) -> list[str]:
    """Tokens of each kind, good and not."""
    return [
        ring.mint(),
        ring.mint("p256", "ES256"),
        ring.mint("ed25519", "EdDSA"),
        ring.mint("stranger"),
        ring.mint("ed25519", "EdDSA", exp=1),
    ]


@ANY
@given(data=st.data())
def test_bent_tokens(ring: Any, tokens: list[str], data: st.DataObject) -> None:
    """A bent token is verified only where a published key verifies exactly its bytes."""
    text = data.draw(mutations(tokens))
    memory = TokenMemory()
    keys = parse_jwk_set(ring.public(*NAMES), is_inline=False)
    rule = JwtRule(issuer=ring.issuer, from_headers=(TokenHeader("x-token"),))
    for token in tokens[:3]:
        memory.verify(token, rule, lambda: keys, ring.now)
    for verify in (verify_token, memory.verify, memory.verify):
        found = ask(ring, rule, headers={"x-token": (text,)}, verify=verify, keys=Keys(keys))
        outcome = outcome_of(ring, found)
        assert outcome != "absent"
        if outcome == "verified":
            assert is_signed(ring, text)


HEADER = st.dictionaries(
    st.sampled_from(["authorization", "cookie", "x-token", "origin", "x-other"]),
    st.lists(
        st.text(max_size=40)
        | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1"))
        | st.binary(max_size=40).map(lambda raw: "Bearer " + raw.decode("utf-8", "surrogateescape"))
        | st.binary(max_size=30).map(with_bearer)
        | st.binary(max_size=30).map(lambda raw: f'sess="{encode(raw)}"; a=b'),
        max_size=3,
    ).map(tuple),
    max_size=4,
)
RULES = (
    {},
    {"from_headers": (TokenHeader("x-token"), TokenHeader("Authorization", "Bearer "))},
    {"from_params": ("t", ""), "from_cookies": ("sess", "")},
)


def _no_answer(url: str, **_fields: Any) -> Any:
    """Answer every question as a broken endpoint does."""
    raise ValueError(url)


@ANY
@given(
    headers=HEADER,
    query=st.text(max_size=40) | st.binary(max_size=40).map(lambda raw: raw.decode("latin-1")),
    chosen=st.sampled_from(RULES),
    has_keys=st.booleans(),
)
@example(headers={"authorization": ("Bearer",)}, query="", chosen=RULES[0], has_keys=True)
@example(headers={"authorization": ()}, query="%", chosen=RULES[1], has_keys=True)
@example(headers={"cookie": ("sess",)}, query="t=%00.%ff.%", chosen=RULES[2], has_keys=False)
def test_any_request(
    ring: Any,
    headers: dict[str, tuple[str, ...]],
    query: str,
    chosen: dict[str, Any],
    has_keys: bool,
) -> None:
    """Any bytes at any place are absent or a named refusal; nothing else is possible unsigned."""
    keys = Keys(parse_jwk_set(ring.public(*NAMES), is_inline=False) if has_keys else None)
    provider = IntrospectionProvider(
        issuer=ring.issuer, endpoint="https://i.example/", client_id="c", client_secret="s"
    )
    introspector = Introspector([provider], _no_answer)
    asking = TokenVerifier(verify_jwt=verify_token, ask_issuer=introspector.verify)
    rule = JwtRule(issuer=ring.issuer, **chosen)
    for verify in (verify_token, TokenMemory().verify, asking.verify):
        found = ask(ring, rule, headers=headers, path="/?" + query, keys=keys, verify=verify)
        assert outcome_of(ring, found) != "verified"
    introspector.close()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@ANY
@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "jku", "x5c", "b64", "zip", "cty"]),
        st.sampled_from(["RS256", "EdDSA", "HS256", "none", "ed25519", "rsa"]) | JSON,
    ),
    claims=st.dictionaries(
        st.sampled_from(["iss", "sub", "aud", "exp", "nbf", "iat", "jti"]),
        st.just("https://issuer.example") | JSON,
    ),
    by_us=st.booleans(),
)
def test_signed_nonsense(
    ring: Any, header: dict[str, Any], claims: dict[str, Any], by_us: bool
) -> None:
    """Any header and claims, truly signed: verified only with our issuer, algorithm and key."""
    name = "ed25519" if by_us else "stranger"
    signed = f"{encode(json.dumps(header).encode())}.{encode(json.dumps(claims).encode())}"
    key = ring.keys[name].raw_value
    signature = (
        key.sign(signed.encode())
        if by_us
        else key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    )
    rule = JwtRule(issuer=ring.issuer, from_headers=(TokenHeader("x-token"),))
    found = ask(ring, rule, headers={"x-token": (f"{signed}.{encode(signature)}",)})
    if outcome_of(ring, found) == "verified":
        assert by_us
        assert header["alg"] == "EdDSA"
        assert claims["iss"] == ring.issuer
