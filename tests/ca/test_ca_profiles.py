"""Every profile that may be configured, before those who judge certificates: openssl and zlint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.errors import KeyRefusedError
from ca.issue import SvidRequest, issue_x509_svid
from ca.key_kinds import KeyKind, generate_key, parse_key_kind
from ca.keys import FileKeyStore
from ca.state import StateFolder
from ca.svid import to_pem
from identity.spiffe_id import SpiffeId, TrustDomain

OPENSSL = shutil.which("openssl")
ZLINT = os.environ.get("MESHWARDEN_ZLINT") or shutil.which("zlint")
# The lints of the web's CAs (CABF, Mozilla, Apple, Chrome, ETSI) ask for what a private CA must not
# have, such as revocation servers that the public can reach.
SOURCES = "RFC5280,RFC5480,RFC8813,Community"

PROFILES = [
    (KeyKind.EC_P256, KeyKind.EC_P256),
    (KeyKind.EC_P384, KeyKind.EC_P256),
    (KeyKind.EC_P384, KeyKind.EC_P384),
    (KeyKind.RSA_2048, KeyKind.RSA_2048),
    (KeyKind.RSA_3072, KeyKind.EC_P256),
    (KeyKind.EC_P256, KeyKind.RSA_2048),
]


@pytest.fixture(params=PROFILES, ids=lambda pair: f"{pair[0]}-signs-{pair[1]}")
def files(request, tmp_path):
    """The certificates of one profile as PEM files: root, intermediate, leaf, leaf with names."""
    authority_key, svid_key = request.param
    plan = AuthorityPlan(
        trust_domain=TrustDomain("example.org"),
        root_lifetime=timedelta(days=300),
        intermediate_lifetime=timedelta(days=90),
        new_key=partial(generate_key, authority_key),
    )
    now = datetime.now(UTC)
    with StateFolder(tmp_path / "s") as state:
        keys = FileKeyStore(state.keys_folder)
        authority = AuthorityKeeper(state, keys, plan, lambda: now).current()
    found = {"root": authority.root, "intermediate": authority.intermediate}
    for name, names in (("leaf", ()), ("named", ("cart.shop.svc", "cart.shop.svc.cluster.local"))):
        asked = SvidRequest(
            spiffe_id=SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart"),
            lifetime=timedelta(hours=1),
            dns_names=names,
        )
        svid = issue_x509_svid(asked, authority, now=now, new_key=partial(generate_key, svid_key))
        found[name] = svid.leaf
    for name, certificate in found.items():
        (tmp_path / f"{name}.pem").write_bytes(to_pem((certificate,)))
    return tmp_path


@pytest.mark.skipif(OPENSSL is None, reason="openssl is not installed")
def test_openssl_accepts_each_profile(files, say):
    """Openssl verifies the chain of every profile strictly, for both sides of a handshake."""
    for purpose in ("sslserver", "sslclient"):
        command = [OPENSSL, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "root.pem"]
        command += ["-untrusted", "intermediate.pem", "leaf.pem", "named.pem"]
        done = subprocess.run(command, cwd=files, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.count(": OK")) == (0, 2), done.stderr
        say(f"openssl verify -purpose {purpose}: {', '.join(done.stdout.splitlines())}")


@pytest.mark.skipif(ZLINT is None, reason="zlint is not installed (MESHWARDEN_ZLINT names it)")
def test_zlint_finds_nothing(files, say):
    """Zlint has neither error nor warning for the leaf and CA profiles."""
    for name in ("root", "intermediate", "leaf", "named"):
        command = [ZLINT, "-includeSources", SOURCES, f"{name}.pem"]
        done = subprocess.run(command, cwd=files, capture_output=True, text=True, check=True)
        results = {lint: found["result"] for lint, found in json.loads(done.stdout).items()}
        assert "pass" in results.values()
        found = {k: v for k, v in results.items() if v in ("warn", "error", "fatal")}
        assert found == {}
        passed = list(results.values()).count("pass")
        say(f"zlint {name}: {passed} lints pass, {len(found)} warnings and errors")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ed25519", "refused by Envoy and gRPC peers at every handshake"),
        ("Ed25519", "refused by Envoy and gRPC"),
        ("ed448", "refused by Envoy and gRPC"),
        ("rsa-1024", "is not known, expected one of ec-p256"),
        ("", "is not known"),
    ],
)
def test_kinds_of_key_that_are_refused(text, words):
    """A key that peers would refuse is refused when it is asked for, with the reason."""
    with pytest.raises(KeyRefusedError, match=words):
        parse_key_kind(text)
