"""JWT-SVIDs: tokens of a workload, meant for us, signed by its own trust domain."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm

from identity.bundle_document import JWT_SVID_ALGORITHMS, parse_bundle
from identity.jwt_svid import LEEWAY_SECONDS, JwtSvid, verify_jwt_svid
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.svid_fault import SvidFault, SvidRefusal
from identity.trust_bundle import BundleSet, TrustBundle

NOW = 1_800_000_000
AT = datetime.fromtimestamp(NOW, UTC)
EXAMPLE, OTHER = TrustDomain("example.org"), TrustDomain("other.org")
CART = "spiffe://example.org/ns/shop/sa/cart"
CLAIMS: Mapping[str, Any] = {"sub": CART, "aud": ["reports"], "exp": NOW + 300, "iat": NOW}
ASYMMETRIC = {
    "rsa": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "p256": ("ES256",),
    "p384": ("ES384",),
    "p521": ("ES512",),
}


@pytest.fixture(scope="session")
def bundles(ring: Any) -> BundleSet:
    """example.org signs with every key but the stranger's, other.org with the stranger's."""

    def document(domain: TrustDomain, *names: str) -> TrustBundle:
        keys = [ring.public_key(name) | {"use": "jwt-svid"} for name in names]
        return parse_bundle(domain, json.dumps({"keys": keys}).encode())

    return BundleSet.of(
        document(EXAMPLE, "rsa", "p256", "p384", "p521"),
        document(OTHER, "stranger"),
        document(TrustDomain("empty.org")),
    )


def token(
    ring: Any,
    key: str = "p256",
    alg: str = "ES256",
    header: Mapping[str, Any] | None = None,
    **claims: Any,
) -> str:
    """A good JWT-SVID with header fields and claims replaced, or left out where None."""
    fields = {"kid": key, "typ": "JWT"} | dict(header or {})
    body = dict(CLAIMS) | claims
    return ring.sign(
        key,
        alg,
        {name: value for name, value in fields.items() if value is not None},
        json.dumps({name: value for name, value in body.items() if value is not None}).encode(),
    )


def fault_of(text: str, bundles: BundleSet, at: datetime = AT) -> SvidFault | None:
    """Why a token is refused, or None."""
    verdict = verify_jwt_svid(text, ["reports"], bundles, at)
    if isinstance(verdict, JwtSvid):
        return None
    assert text[-20:] not in verdict.detail or not text
    return verdict.fault


@pytest.mark.parametrize(
    ("key", "alg"), [(key, alg) for key, algs in ASYMMETRIC.items() for alg in algs]
)
def test_every_algorithm(ring: Any, bundles: BundleSet, key: str, alg: str) -> None:
    """Each algorithm of the standard verifies with a key of its family."""
    svid = verify_jwt_svid(token(ring, key, alg, team="a"), ["reports"], bundles, AT)

    assert isinstance(svid, JwtSvid), str(svid)
    assert SpiffeId.parse(CART) == svid.spiffe_id
    assert (svid.audiences, svid.claims["team"]) == (("reports",), "a")
    assert datetime.fromtimestamp(NOW + 300, UTC) == svid.expires_at


def test_the_algorithms_are_those_of_the_standard() -> None:
    """Nine of them, and nothing that is symmetric, Edwards or none."""
    assert {alg for algs in ASYMMETRIC.values() for alg in algs} == JWT_SVID_ALGORITHMS


@pytest.mark.parametrize(
    ("header", "want"),
    [
        ({"typ": None}, None),
        ({"typ": "JOSE"}, None),
        ({"typ": "jwt"}, SvidFault.TOKEN_HEADER),
        ({"typ": "JWT "}, SvidFault.TOKEN_HEADER),
        ({"typ": "at+jwt"}, SvidFault.TOKEN_HEADER),
        ({"typ": "wit+jwt"}, SvidFault.TOKEN_HEADER),
        ({"typ": ["JWT"]}, SvidFault.TOKEN_HEADER),
        ({"kid": None}, SvidFault.TOKEN_HEADER),
        ({"kid": ""}, SvidFault.TOKEN_HEADER),
        ({"kid": 1}, SvidFault.TOKEN_HEADER),
        ({"kid": "p384"}, SvidFault.KEY_UNKNOWN),
        ({"kid": "stranger"}, SvidFault.KEY_UNKNOWN),
        ({"kid": "../../dev/null"}, SvidFault.KEY_UNKNOWN),
        ({"kid": "p256\0"}, SvidFault.KEY_UNKNOWN),
        ({"kid": "p256' OR 1=1"}, SvidFault.KEY_UNKNOWN),
        ({"jku": "https://evil.example/keys"}, SvidFault.TOKEN_HEADER),
        ({"jwk": {"kty": "EC"}}, SvidFault.TOKEN_HEADER),
        ({"x5u": "https://evil.example/chain"}, SvidFault.TOKEN_HEADER),
        ({"x5c": ["AAAA"]}, SvidFault.TOKEN_HEADER),
        ({"x5t": "AAAA"}, SvidFault.TOKEN_HEADER),
        ({"cty": "JWT"}, SvidFault.TOKEN_HEADER),
        ({"b64": True}, SvidFault.TOKEN_HEADER),
        ({"crit": ["exp"]}, SvidFault.TOKEN_HEADER),
        ({"alg": ["ES256"]}, SvidFault.ALGORITHM),
        ({"alg": {"ES256": 1}}, SvidFault.ALGORITHM),
        ({"private": 1}, SvidFault.TOKEN_HEADER),
    ],
)
def test_headers(
    ring: Any, bundles: BundleSet, header: dict[str, Any], want: SvidFault | None
) -> None:
    """The header holds `alg`, `kid` and perhaps `typ`; whatever else it brings is refused."""
    signed = _sign_plainly(ring, {"alg": "ES256", "kid": "p256", "typ": "JWT"} | header)

    assert want == fault_of(signed, bundles)


def _sign_plainly(ring: Any, header: Mapping[str, Any]) -> str:
    """A well-signed ES256 token whose header no library would write."""
    good = token(ring).split(".")
    fields = {name: value for name, value in header.items() if value is not None}
    head = base64.urlsafe_b64encode(json.dumps(fields).encode()).rstrip(b"=").decode()
    key = ring.keys["p256"].private_key
    signature = ECAlgorithm(ECAlgorithm.SHA256).sign(f"{head}.{good[1]}".encode(), key)
    return f"{head}.{good[1]}." + base64.urlsafe_b64encode(signature).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "HS256", "HS512", "EdDSA", "ES256K", "es256", "", None, 1]
)
def test_other_algorithms(ring: Any, bundles: BundleSet, alg: object) -> None:
    """No other algorithm is looked at, with or without a signature."""
    signed = _sign_plainly(ring, {"alg": alg, "kid": "p256"})

    assert fault_of(signed, bundles) == SvidFault.ALGORITHM
    assert fault_of(signed.rpartition(".")[0] + ".", bundles) == SvidFault.ALGORITHM


def test_a_public_key_is_no_secret(ring: Any, bundles: BundleSet) -> None:
    """A token signed by HMAC over the public key is refused before any key is looked for."""
    header = {"kid": "rsa", "typ": "JWT"}
    forged = ring.sign("oct", "HS256", header, json.dumps(CLAIMS).encode())

    assert fault_of(forged, bundles) == SvidFault.ALGORITHM


@pytest.mark.parametrize(("key", "alg"), [("p256", "RS256"), ("rsa", "ES256"), ("p384", "ES256")])
def test_an_algorithm_of_another_family(ring: Any, bundles: BundleSet, key: str, alg: str) -> None:
    """The key decides what it verifies: no token talks an EC key into RSA."""
    signed = _sign_plainly(ring, {"alg": alg, "kid": key})

    assert fault_of(signed, bundles) == SvidFault.KEY_UNKNOWN


@pytest.mark.parametrize(
    ("claims", "want"),
    [
        ({"aud": "reports"}, None),
        ({"aud": ["other", "reports"]}, None),
        ({"aud": None}, SvidFault.AUDIENCE),
        ({"aud": []}, SvidFault.AUDIENCE),
        ({"aud": ""}, SvidFault.AUDIENCE),
        ({"aud": "other"}, SvidFault.AUDIENCE),
        ({"aud": "Reports"}, SvidFault.AUDIENCE),
        ({"aud": "reports/"}, SvidFault.AUDIENCE),
        ({"aud": "https://reports"}, SvidFault.AUDIENCE),
        ({"aud": "rep"}, SvidFault.AUDIENCE),
        ({"aud": 1}, SvidFault.TOKEN_FORMAT),
        ({"aud": {"reports": 1}}, SvidFault.TOKEN_FORMAT),
        ({"exp": None}, SvidFault.NO_EXPIRY),
        ({"exp": NOW - LEEWAY_SECONDS}, None),
        ({"exp": NOW - LEEWAY_SECONDS - 1}, SvidFault.EXPIRED),
        ({"exp": 0}, SvidFault.EXPIRED),
        ({"exp": "1900000000"}, SvidFault.TOKEN_FORMAT),
        ({"exp": -1}, SvidFault.TOKEN_FORMAT),
        ({"exp": True}, SvidFault.TOKEN_FORMAT),
        ({"exp": NOW + 300.5}, None),
        ({"exp": 2**63}, None),
        ({"nbf": NOW + LEEWAY_SECONDS}, None),
        ({"nbf": NOW + LEEWAY_SECONDS + 1}, SvidFault.NOT_YET_VALID),
        ({"sub": None}, SvidFault.SPIFFE_ID),
        ({"sub": "alice"}, SvidFault.SPIFFE_ID),
        ({"sub": "spiffe://Example.org/a"}, SvidFault.SPIFFE_ID),
        ({"sub": "spiffe://example.org/%61"}, SvidFault.SPIFFE_ID),
        ({"sub": "spiffe://example.org/../a"}, SvidFault.SPIFFE_ID),
        ({"sub": "spiffe://example.org\0.evil/a"}, SvidFault.SPIFFE_ID),
        ({"sub": "spiffe://ex\u0430mple.org/a"}, SvidFault.SPIFFE_ID),
        ({"sub": "spiffe://example.org"}, SvidFault.NO_PATH),
        ({"sub": ["spiffe://example.org/a"]}, SvidFault.TOKEN_FORMAT),
        ({"sub": "spiffe://unknown.org/a"}, SvidFault.NO_BUNDLE),
        ({"sub": "spiffe://empty.org/a"}, SvidFault.NO_AUTHORITY),
        ({"sub": "spiffe://other.org/a"}, SvidFault.KEY_UNKNOWN),
        ({"iss": "spiffe://other.org", "jti": "1", "scope": "a b"}, None),
    ],
)
def test_claims(
    ring: Any, bundles: BundleSet, claims: dict[str, Any], want: SvidFault | None
) -> None:
    """Whom it names, whom it is for and when it holds are judged to the letter."""
    assert want == fault_of(token(ring, **claims), bundles)


def test_another_trust_domains_key(ring: Any, bundles: BundleSet) -> None:
    """A trust domain signs for its own workloads only, even under a key id both have."""
    foreign = token(ring, "stranger", "RS256")
    assert fault_of(foreign, bundles) == SvidFault.KEY_UNKNOWN
    renamed = token(ring, "stranger", "RS256", header={"kid": "rsa"})
    assert fault_of(renamed, bundles) == SvidFault.SIGNATURE
    at_home = token(ring, "stranger", "RS256", sub="spiffe://other.org/a")
    assert fault_of(at_home, bundles) is None


def test_one_bundle_alone(ring: Any, bundles: BundleSet) -> None:
    """A single bundle speaks for its own trust domain only."""
    own, other = bundles.bundle_for(EXAMPLE), bundles.bundle_for(OTHER)
    assert own is not None
    assert other is not None

    assert isinstance(verify_jwt_svid(token(ring), ["reports"], own, AT), JwtSvid)
    refused = verify_jwt_svid(token(ring), ["reports"], other, AT)
    assert isinstance(refused, SvidRefusal)
    assert refused.fault == SvidFault.NO_BUNDLE


def test_a_validator_without_audiences_believes_nobody(ring: Any, bundles: BundleSet) -> None:
    """Without a name of our own no token is meant for us."""
    refused = verify_jwt_svid(token(ring, aud=[""]), [], bundles, AT)

    assert isinstance(refused, SvidRefusal)
    assert refused.fault == SvidFault.AUDIENCE


def test_a_leap_of_the_clock(ring: Any, bundles: BundleSet) -> None:
    """A clock that leaps makes tokens expired or early, never anything worse."""
    text = token(ring, nbf=NOW)
    for at, want in (
        (datetime(1970, 1, 1, tzinfo=UTC), SvidFault.NOT_YET_VALID),
        (datetime(9999, 12, 30, tzinfo=UTC), SvidFault.EXPIRED),
    ):
        assert want == fault_of(text, bundles, at)


def test_a_token_without_end_is_not_read(bundles: BundleSet) -> None:
    """A token is refused by its length before any of it is decoded."""
    for text in ("A" * 65_537, "eyJ." * 30_000, "." * 70_000):
        assert fault_of(text, bundles) == SvidFault.TOKEN_FORMAT


def test_duplicates_nesting_and_size(ring: Any, bundles: BundleSet) -> None:
    """Two readers could read such a token in two ways, or one of them not at all."""
    texts = [
        json.dumps(CLAIMS)[:-1] + ', "sub": "spiffe://example.org/admin"}',
        '{"a":' * 200 + "1" + "}" * 200,
        json.dumps(dict(CLAIMS) | {"pad": "a" * 70_000}),
        "[]",
        "{",
    ]
    for text in texts:
        signed = ring.sign("p256", "ES256", {"kid": "p256"}, text.encode())
        assert fault_of(signed, bundles) == SvidFault.TOKEN_FORMAT, text[:40]


@pytest.fixture(scope="session")
def good(ring: Any) -> str:
    """A good token whose signature has one spelling only."""
    return token(ring, "rsa", "RS256")


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_text(good: str, bundles: BundleSet, data: st.DataObject) -> None:
    """Whatever arrives as a token, it is refused by name unless it is the one that was signed."""
    place = data.draw(st.integers(0, len(good) - 1))
    piece = data.draw(st.text(max_size=3) | st.sampled_from([".", "=", "A", "\0", "\ud800"]))
    changed = good[:place] + piece + good[place + data.draw(st.integers(0, 3)) :]
    text = data.draw(st.sampled_from([changed, piece, f"{piece}.{piece}.{piece}"]))

    verdict = verify_jwt_svid(text, ["reports"], bundles, AT)

    assert isinstance(verdict, JwtSvid) == (text == good)
