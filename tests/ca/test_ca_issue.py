"""Issuance: what comes out is an X.509-SVID for everyone who reads it, openssl included."""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ca.errors import AuthorityExpiredError, IssueRefusedError, SvidInvalidError
from ca.issue import SvidRequest, issue_x509_svid
from ca.keys import generate_key
from ca.profile import BACKDATE, Validity, build_leaf
from ca.svid import X509Svid, to_pem
from ca.validate import verify_x509_svid
from identity.spiffe_id import SpiffeId

ID = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
SEGMENT = st.text("abcXYZ019._-", min_size=1, max_size=12).filter(lambda s: s not in (".", ".."))


def test_leaf_profile(issue, authority, clock):
    """The leaf has one URI SAN in a critical SAN, both usages, P-256, and the stated times."""
    leaf = issue(dns_names=("cart.shop.svc",)).leaf
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical
    assert san.value.get_values_for_type(x509.UniformResourceIdentifier) == [str(ID)]
    assert san.value.get_values_for_type(x509.DNSName) == ["cart.shop.svc"]
    assert leaf.subject.rdns == []
    assert leaf.public_key().curve.name == "secp256r1"
    assert leaf.not_valid_after_utc == clock.now + timedelta(hours=1)
    # The signer is as old as the leaf here: the leaf starts no earlier than its signer.
    assert leaf.not_valid_before_utc == authority.intermediate.not_valid_before_utc


def test_backdating(issue, clock):
    """A leaf starts a minute ago, for peers whose clock runs behind."""
    clock.now += timedelta(hours=1)
    assert issue().leaf.not_valid_before_utc == clock.now - BACKDATE


def test_keys_and_serials_are_fresh(issue):
    """No key and no serial comes twice; serials are positive and at most 20 octets."""
    svids = [issue() for _ in range(50)]
    assert len({s.leaf.serial_number for s in svids}) == 50
    assert len({s.key.private_numbers().private_value for s in svids}) == 50
    assert all(64 < s.leaf.serial_number.bit_length() < 160 for s in svids)


def test_leaf_ends_with_its_signer(issue, authority, clock):
    """A leaf never outlives the intermediate, and near the end nothing is signed any more."""
    end = authority.intermediate.not_valid_after_utc
    clock.now = end - timedelta(minutes=10)
    assert issue(lifetime=timedelta(hours=1)).leaf.not_valid_after_utc == end
    clock.now = end - timedelta(seconds=59)
    with pytest.raises(AuthorityExpiredError, match="too near to its end"):
        issue(lifetime=timedelta(hours=1))


@pytest.mark.parametrize(
    ("spiffe_id", "lifetime", "words"),
    [
        ("spiffe://other.org/a", 60, "is not in the trust domain `example.org`"),
        ("spiffe://example.org", 60, "names a trust domain, not a workload"),
        ("spiffe://example.org/a", 0, "lifetime is not positive"),
        ("spiffe://example.org/a", -5, "lifetime is not positive"),
    ],
)
def test_refused_requests(issue, spiffe_id, lifetime, words):
    """What this authority must not sign is refused by name."""
    with pytest.raises(IssueRefusedError, match=words):
        issue(spiffe_id, lifetime=timedelta(seconds=lifetime))


def test_a_bad_result_is_thrown_away(authority, clock):
    """A leaf that breaks the profile, however it came about, never leaves the CA."""
    request = SvidRequest(spiffe_id=ID, lifetime=timedelta(hours=1))
    with pytest.raises(SvidInvalidError, match="on the curve `secp521r1`"):
        issue_x509_svid(
            request,
            authority,
            now=clock(),
            new_key=lambda: ec.generate_private_key(ec.SECP521R1()),
        )


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(path=st.lists(SEGMENT, min_size=1, max_size=6))
def test_any_canonical_id(issue, authority, clock, path):
    """Every canonical SPIFFE ID can be issued and comes back as it was asked."""
    text = "spiffe://example.org/" + "/".join(path)
    svid = issue(text)
    verify_x509_svid(svid, authority.roots, now=clock())
    san = svid.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [text]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize("purpose", ["sslserver", "sslclient"])
def test_openssl_accepts(issue, authority, clock, tmp_path, purpose):
    """Openssl verifies the chain strictly, for both sides of a handshake."""
    svid = issue(dns_names=("cart.shop.svc",))
    for name, chain in (
        ("root", authority.roots),
        ("intermediate", svid.chain[1:]),
        ("leaf", svid.chain[:1]),
    ):
        (tmp_path / f"{name}.pem").write_bytes(to_pem(chain))
    at = str(int(clock.now.timestamp()))
    command = ["openssl", "verify", "-x509_strict", "-attime", at, "-purpose", purpose]
    command += ["-CAfile", "root.pem", "-untrusted", "intermediate.pem", "leaf.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "leaf.pem: OK"), done.stderr


def _uri(*texts):
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(t) for t in texts])


def _usage(**bits):
    names = "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
    names += " key_cert_sign crl_sign encipher_only decipher_only"
    return x509.KeyUsage(**(dict.fromkeys(names.split(), False) | bits))


SAN, KU, EKU, BASIC = (
    x509.SubjectAlternativeName,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.BasicConstraints,
)
ONE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])

# Each row: the extension replaced (None: left out), whether it is critical, the words expected.
BROKEN = {
    "two URIs": (SAN, _uri(str(ID), str(ID)), True, "expected 1 URI SAN, got 2"),
    "no URI": (SAN, x509.SubjectAlternativeName([x509.DNSName("a")]), True, "got 0"),
    "no SAN": (SAN, None, True, "no single, readable SubjectAlternativeName"),
    "SAN not critical": (SAN, _uri(str(ID)), False, "SAN extension is not critical"),
    "other ID": (SAN, _uri("spiffe://example.org/b"), True, "expected `spiffe://example.org/ns"),
    "root ID": (SAN, _uri("spiffe://example.org"), True, "has no path"),
    "other scheme": (SAN, _uri("https://example.org/a"), True, "does not start with"),
    "upper case": (SAN, _uri("spiffe://Example.org/a"), True, "is not a SPIFFE ID"),
    "percent": (SAN, _uri("spiffe://example.org/%61"), True, "is not a SPIFFE ID"),
    "dots": (SAN, _uri("spiffe://example.org/../a"), True, "is not a SPIFFE ID"),
    "trailing slash": (SAN, _uri(f"{ID}/"), True, "is not a SPIFFE ID"),
    "no key usage": (KU, None, True, "no single, readable KeyUsage"),
    "key usage not critical": (KU, _usage(digital_signature=True), False, "is not critical"),
    "no digitalSignature": (KU, _usage(key_agreement=True), True, "lacks digitalSignature"),
    "keyCertSign": (KU, _usage(digital_signature=True, key_cert_sign=True), True, "lets it sign"),
    "cRLSign": (KU, _usage(digital_signature=True, crl_sign=True), True, "lets it sign"),
    "one EKU": (EKU, ONE, False, "lacks serverAuth or clientAuth"),
    "no EKU": (EKU, None, False, "no single, readable ExtendedKeyUsage"),
    "CA": (BASIC, x509.BasicConstraints(ca=True, path_length=None), True, "is a CA's"),
    "no basic constraints": (BASIC, None, True, "no single, readable BasicConstraints"),
}


def _forge(authority, clock, kind=None, value=None, critical=False, **changes):
    """Return an SVID signed by the authority whose leaf was bent before signing."""
    key = changes.get("key") or generate_key()
    validity = changes.get("validity") or Validity.of(
        clock(), timedelta(hours=1), authority.intermediate
    )
    builder = build_leaf(authority.intermediate, ID, (), key.public_key(), 99, validity)
    kept = [e for e in builder._extensions if kind is None or e.oid != kind.oid]
    builder._extensions = kept
    if value is not None:
        builder = builder.add_extension(value, critical=critical)
    signer = changes.get("signer") or authority.key
    leaf = builder.sign(signer, hashes.SHA256())
    return X509Svid(spiffe_id=ID, chain=(leaf, authority.intermediate), key=key)


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_leaf_is_named(authority, clock, name):
    """Every way to break the standard is refused for its own reason, though our own key signed."""
    kind, value, critical, words = BROKEN[name]
    svid = _forge(authority, clock, kind, value, critical)
    with pytest.raises(SvidInvalidError, match=words):
        verify_x509_svid(svid, authority.roots, now=clock())


def test_an_unbent_forgery_passes(authority, clock):
    """The forge itself makes good leaves, so each row above fails for what it bent."""
    verify_x509_svid(_forge(authority, clock), authority.roots, now=clock())


def test_broken_chains(authority, clock, keeper_of, tmp_path, issue):
    """A wrong signer, a wrong key, a strange root, no intermediate and wrong times are refused."""
    good = issue()
    with keeper_of(tmp_path / "other") as keeper:
        other = keeper.current()
    with pytest.raises(SvidInvalidError, match="not signed by the next"):
        verify_x509_svid(_forge(authority, clock, signer=other.key), authority.roots, now=clock())
    swapped = X509Svid(spiffe_id=ID, chain=good.chain, key=generate_key())
    with pytest.raises(SvidInvalidError, match="key does not belong to the leaf"):
        verify_x509_svid(swapped, authority.roots, now=clock())
    for roots in ((), other.roots, (authority.intermediate,)):
        with pytest.raises(SvidInvalidError, match="trusted root|expected a certificate"):
            verify_x509_svid(good, roots, now=clock())
    bare = X509Svid(spiffe_id=ID, chain=good.chain[:1], key=good.key)
    with pytest.raises(SvidInvalidError, match="trusted root"):
        verify_x509_svid(bare, authority.roots, now=clock())
    for hours in (-1, 2):
        with pytest.raises(SvidInvalidError, match="not in its validity"):
            verify_x509_svid(good, authority.roots, now=clock() + timedelta(hours=hours))


def test_a_leaf_cannot_sign_leaves(authority, clock, issue):
    """A chain that runs through a workload's own certificate is refused."""
    signer = issue()
    key = generate_key()
    validity = Validity.of(clock(), timedelta(minutes=1), signer.leaf)
    leaf = build_leaf(signer.leaf, ID, (), key.public_key(), 7, validity).sign(
        signer.key, hashes.SHA256()
    )
    svid = X509Svid(spiffe_id=ID, chain=(leaf, *signer.chain), key=key)
    with pytest.raises(SvidInvalidError, match="an issuer's certificate is not a CA's"):
        verify_x509_svid(svid, authority.roots, now=clock())


def test_ed25519_is_refused(authority, clock):
    """A leaf that Envoy and gRPC would refuse as a peer is refused here."""
    key = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(SvidInvalidError, match="refused by Envoy and gRPC peers"):
        verify_x509_svid(_forge(authority, clock, key=key), authority.roots, now=clock())


def test_no_secret_in_a_representation(issue):
    """The key is in no repr, so it can be in no log line."""
    assert "key" not in repr(issue())
