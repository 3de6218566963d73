"""Issuers that are down, bundles of trust that are gone, and clocks that jump."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from authz.walk import Surroundings
from tests.failures.serving import Answer, House, eventually, policies, serving
from tests.failures.table import rows
from tests.identity.loopback_issuer import Issuer

KEY = ec.generate_private_key(ec.SECP256R1())
PACE = {
    "allowLoopback": True,
    "refreshSeconds": 1,
    "floorSeconds": 1,
    "retrySeconds": 0.1,
    "lastRetrySeconds": 0.2,
}


def key_set() -> bytes:
    """Return the issuer's JWKS."""
    numbers = KEY.public_key().public_numbers()
    parts = {"x": numbers.x.to_bytes(32), "y": numbers.y.to_bytes(32)}
    texts = {
        name: base64.urlsafe_b64encode(raw).rstrip(b"=").decode() for name, raw in parts.items()
    }
    return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", **texts}]}).encode()


def bearer(issuer: str, **claims: float) -> str:
    """Return the header's value with a token for an hour from now."""
    payload = {"iss": issuer, "sub": "ann", "exp": time.time() + 3600, **claims}
    return "Bearer " + jwt.encode(payload, KEY, "ES256", {"kid": "k"})


def token_policies(issuer: Issuer) -> str:
    """Return policies that look at tokens, and let anybody in without one."""
    return policies(
        {
            "kind": "RequestAuthentication",
            "jwtRules": [{"issuer": issuer.url, "jwksUri": f"{issuer.url}/jwks"}],
        }
    )


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that answers 503 until a test gives it keys."""
    found = Issuer()
    found.answers["/jwks"] = (503, {}, b"")
    yield found
    found.close()


def has_keys(house: House) -> None:
    """Wait until the issuer's keys were had."""
    eventually(house.readyz, lambda seen: seen[1]["keys"] and seen[1]["keys"][0]["ready"])


@pytest.mark.failure("keys-never-had")
def test_keys_that_were_never_had(tmp_path: Path, issuer: Issuer) -> None:
    """A token that nobody can judge is refused; it counts again once the keys can be had."""
    row = rows()["keys-never-had"]
    files = {"policies.yaml": token_policies(issuer)}
    with serving(tmp_path, files, identity={"jwks": PACE}) as house:
        token = bearer(issuer.url)
        row.is_told(house)
        assert row.answers(house.ask(authorization=token))
        assert house.ask().code == 0
        issuer.answers["/jwks"] = (200, {}, key_set())
        row.is_over(house)
        assert house.ask(authorization=token).code == 0


@pytest.mark.failure("keys-outage")
def test_an_issuer_that_goes_down_later(tmp_path: Path, issuer: Issuer) -> None:
    """The last good keys go on counting, and the outage is told."""
    row = rows()["keys-outage"]
    issuer.answers["/jwks"] = (200, {}, key_set())
    files = {"policies.yaml": token_policies(issuer)}
    with serving(tmp_path, files, identity={"jwks": PACE}) as house:
        has_keys(house)
        issuer.answers["/jwks"] = (503, {}, b"")
        eventually(lambda: house.metric(row.metrics[0]), lambda count: count > 0)
        row.is_told(house)
        assert row.answers(house.ask(authorization=bearer(issuer.url)))
        issuer.answers["/jwks"] = (200, {}, key_set())
        row.is_over(house)


@pytest.mark.failure("introspection-down")
def test_an_introspection_endpoint_that_is_down(tmp_path: Path, issuer: Issuer) -> None:
    """An opaque token that nobody vouches for now is refused, and counts later."""
    row = rows()["introspection-down"]
    issuer.answers["/introspect"] = (503, {}, b"")
    settings: dict[str, Any] = {
        "issuer": issuer.url,
        "endpoint": f"{issuer.url}/introspect",
        "clientId": "meshwarden",
        "clientSecretEnv": "",
        "refusalCacheSeconds": 0,
    }
    (tmp_path / "secret").write_text("s3cret")
    settings |= {"clientSecretFile": "secret"}
    settings.pop("clientSecretEnv")
    identity = {"jwks": PACE, "introspection": [settings]}
    with serving(tmp_path, {"policies.yaml": token_policies(issuer)}, identity=identity) as house:
        got = house.ask(authorization="Bearer opaque-token")
        assert row.answers(got), got
        active = {"active": True, "iss": issuer.url, "sub": "ann", "exp": time.time() + 60}
        body = json.dumps(active).encode()
        issuer.answers["/introspect"] = (200, {"content-type": "application/json"}, body)
        eventually(
            lambda: house.ask(authorization="Bearer opaque-token"), lambda seen: seen.code == 0
        )


@pytest.mark.failure("clock-ahead", "clock-behind")
@pytest.mark.parametrize(("row", "jump"), [("clock-ahead", 7200), ("clock-behind", -7200)])
def test_a_clock_that_jumps(
    tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, row: str, jump: int
) -> None:
    """A token is judged by the clock of each request, remembered verdicts as well."""
    issuer.answers["/jwks"] = (200, {}, key_set())
    shift = [0]
    # What `serve` does not name is the host's clock.
    clock = Surroundings.__init__.__kwdefaults__
    monkeypatch.setitem(clock, "now", lambda: time.time() + shift[0])
    monkeypatch.setitem(clock, "wall_clock", lambda: time.time() + shift[0])
    with serving(
        tmp_path, {"policies.yaml": token_policies(issuer)}, identity={"jwks": PACE}
    ) as house:
        has_keys(house)
        token = bearer(issuer.url, nbf=time.time() - 60)
        assert house.ask(authorization=token).code == 0
        shift[0] = jump
        assert rows()[row].answers(house.ask(authorization=token))
        assert house.ask().code == 0
        shift[0] = 0
        assert house.ask(authorization=token).code == 0


WEB = "spiffe://cluster.local/ns/shop/sa/web"
ANYBODY_KNOWN = policies({"rules": [{"from": [{"source": {"principals": ["*"]}}]}]})
Certified = tuple[x509.Certificate, ec.EllipticCurvePrivateKey]


def show(house: House, leaf: Certified) -> Answer:
    """Ask as the holder of a certificate."""
    return house.ask(peer=WEB, certificate=quote(pem(leaf).decode()))


def make_root() -> Certified:
    """Return a fresh authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    return certified("root", key, "root", key, None), key


def make_leaf(root: Certified) -> Certified:
    """Return a workload's certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    return certified("", key, "root", root[1], WEB), key


def certified(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    uri: str | None,
) -> x509.Certificate:
    """Return a certificate: an authority's, or with a URI a leaf's."""
    subject, by = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)] if text else [])
        for text in (name, issuer)
    )
    now, is_ca = datetime.now(UTC), uri is None
    bits = dict.fromkeys(["content_commitment", "key_encipherment", "data_encipherment"], False)
    bits |= dict.fromkeys(["key_agreement", "encipher_only", "decipher_only"], False)
    usage = x509.KeyUsage(digital_signature=not is_ca, key_cert_sign=is_ca, crl_sign=is_ca, **bits)
    builder = (
        x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=True)
    return builder.sign(signer, hashes.SHA256())


def pem(owner: Certified) -> bytes:
    """Return a certificate as PEM."""
    return owner[0].public_bytes(serialization.Encoding.PEM)


@pytest.mark.failure("trust-bundle-gone")
@pytest.mark.parametrize("broken", [None, b"no certificate"], ids=["deleted", "broken"])
def test_a_trust_bundle_that_is_gone(tmp_path: Path, broken: bytes | None) -> None:
    """Who was believed by the last good bundle is believed; who was not is not."""
    row = rows()["trust-bundle-gone"]
    root, stranger = make_root(), make_root()
    leaf, forged = make_leaf(root), make_leaf(stranger)
    place = tmp_path / "roots.pem"
    identity = {
        "trustBundles": [{"trustDomain": "cluster.local", "file": "roots.pem"}],
        "bundleRefresh": {"fileSeconds": 0.1},
    }
    files = {"policies.yaml": ANYBODY_KNOWN, "roots.pem": pem(root)}
    with serving(tmp_path, files, identity=identity) as house:
        eventually(lambda: show(house, leaf), row.answers)
        if broken is None:
            place.unlink()
        else:
            place.write_bytes(broken)
        row.is_told(house)
        assert row.answers(show(house, leaf))
        assert show(house, forged).reason == "peer_certificate_untrusted"
        place.write_bytes(pem(root))
        row.is_over(house)
        assert row.answers(show(house, leaf))


DENIED, OTHER = (f"spiffe://cluster.local/ns/shop/sa/{name}" for name in ("bad", "good"))


def denials(*names: str) -> bytes:
    """Return a deny list of these SPIFFE IDs."""
    denied = [{"kind": "spiffe_id", "value": name, "until": None} for name in names]
    return json.dumps({"version": 1, "revision": len(names), "denied": denied}).encode()


@pytest.mark.failure("deny-list-gone")
@pytest.mark.parametrize("broken", [None, b"{", b'{"revision":1e999}'])
def test_a_deny_list_that_is_gone(tmp_path: Path, broken: bytes | None) -> None:
    """Who was denied stays denied, and the next good list counts."""
    row = rows()["deny-list-gone"]
    place = tmp_path / "denied.json"
    files = {"policies.yaml": ANYBODY_KNOWN, "denied.json": denials(DENIED)}
    with serving(tmp_path, files, identity={"denyList": "denied.json"}) as house:
        assert row.answers(house.ask(peer=DENIED))
        assert house.ask(peer=OTHER).code == 0
        if broken is None:
            place.unlink()
        else:
            place.write_bytes(broken)
        row.is_told(house)
        assert row.answers(house.ask(peer=DENIED))
        place.write_bytes(denials(DENIED, OTHER))
        row.is_over(house)
        assert row.answers(house.ask(peer=OTHER))
