"""Hostile requests: each is refused for its own named reason, and the refusal is on record."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from issuing import CART, CART_CALLER, make_csr, open_ca

from ca.caller import Caller, Method
from ca.csr import MAX_CSR_BYTES, read_csr, spki_digest
from ca.entries import delete_entry
from ca.errors import IssueRefusedError
from ca.issued import SigningRequest
from ca.refusal import Refusal
from ca.revocations import DeniedKind, Revocation, insert_revocation
from identity.spiffe_id import SpiffeId

HERE = Path(__file__).parent
ROWS = yaml.safe_load((HERE / "hostile_requests.yaml").read_text())
# Made once: a signature's length is a matter of chance.
SAMPLES = [make_csr(CART, pem=False), make_csr(CART)]
CALLERS = {
    "cart": CART_CALLER,
    "stranger": Caller(method=Method.UNIX, selectors=frozenset({"unix:uid:1000"})),
    "half": replace(CART_CALLER, selectors=frozenset({"k8s:ns:shop"})),
}


def _usage(**bits: bool) -> x509.KeyUsage:
    names = "digital_signature content_commitment key_encipherment data_encipherment key_agreement"
    names += " key_cert_sign crl_sign encipher_only decipher_only"
    return x509.KeyUsage(**(dict.fromkeys(names.split(), False) | bits))


def _bent(old: bytes, new: bytes) -> bytes:
    """A CSR with one piece of its bytes replaced after signing."""
    der = make_csr(CART, pem=False)
    assert old in der
    return der.replace(old, new)


def _other_signer() -> bytes:
    """A CSR for one key, signed by another."""
    mine, others = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    der = make_csr(CART, key=mine, pem=False)
    return der.replace(_spki(mine), _spki(others))


def _spki(key) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _bent_signature() -> bytes:
    """A CSR of which the last byte, the end of the signature's `s`, is another."""
    der = make_csr(CART, pem=False)
    return der[:-1] + bytes([der[-1] ^ 1])


def _twice() -> bytes:
    """A CSR that carries one extension twice, and is signed as it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(constraints, critical=True)
    # The library's own check stands in `add_extension`.
    builder._extensions *= 2
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _private_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


MAKERS = {
    "uri": lambda row, _: make_csr(*row["uris"]),
    "good": lambda *_: make_csr(CART),
    "long_id": lambda *_: make_csr(CART + "x" * (2049 - len(CART))),
    "ca_true": lambda *_: make_csr(
        CART, extensions=[x509.BasicConstraints(ca=True, path_length=None)]
    ),
    "key_cert_sign": lambda *_: make_csr(CART, extensions=[_usage(key_cert_sign=True)]),
    "crl_sign": lambda *_: make_csr(CART, extensions=[_usage(crl_sign=True)]),
    "rsa_1024": lambda *_: make_csr(CART, key=rsa.generate_private_key(65537, 1024)),
    "rsa_e3": lambda *_: make_csr(CART, key=rsa.generate_private_key(3, 2048)),
    "rsa_8192": lambda *_: (HERE / "rsa_8192.csr.pem").read_bytes(),
    "p224": lambda *_: make_csr(CART, key=ec.generate_private_key(ec.SECP224R1())),
    "p521": lambda *_: make_csr(CART, key=ec.generate_private_key(ec.SECP521R1())),
    "secp256k1": lambda *_: make_csr(CART, key=ec.generate_private_key(ec.SECP256K1())),
    "ed25519": lambda *_: make_csr(CART, key=ed25519.Ed25519PrivateKey.generate()),
    "dsa": lambda *_: make_csr(CART, key=dsa.generate_private_key(2048)),
    "other_signer": lambda *_: _other_signer(),
    "sha1": lambda *_: (HERE / "sha1.csr.pem").read_bytes(),
    "bent_signature": lambda *_: _bent_signature(),
    "bent_id": lambda *_: _bent(b"/sa/cart", b"/sa/carx"),
    "authority_key": lambda _, authority: make_csr(CART, key=authority.key),
    "empty": lambda *_: b"",
    "truncated": lambda *_: make_csr(CART, pem=False)[:100],
    "trailing": lambda *_: make_csr(CART, pem=False) + b"\0",
    "two_blocks": lambda *_: make_csr(CART) + make_csr(CART),
    "certificate": lambda _, authority: authority.root.public_bytes(serialization.Encoding.PEM),
    "private_key": lambda *_: _private_key(),
    "text": lambda *_: CART.encode(),
    "too_large": lambda *_: b"A" * (MAX_CSR_BYTES + 1),
    "twice": lambda *_: _twice(),
}


@pytest.fixture
def ca(authority, clock, tmp_path):
    """An issuing CA."""
    with open_ca(tmp_path, authority, clock) as opened:
        yield opened


def _deny(ca, kind: str, value: str, clock) -> None:
    with ca.store.write() as connection:
        insert_revocation(
            connection,
            Revocation(kind=DeniedKind(kind), value=value, revoked_at=clock()),
        )
    ca.registry.refresh()


@pytest.mark.parametrize("row", ROWS, ids=[row["note"] for row in ROWS])
def test_each_hostile_request_is_refused_by_name_and_recorded(ca, authority, clock, row):
    """A refusal has its own reason, is on the audit chain, and leaves no row in the ledger."""
    ended = clock() - timedelta(seconds=1) if row.get("entry") == "ended" else None
    ca.add(expires_at=ended)
    csr = MAKERS[row["csr"]](row, authority)
    if "denied" in row:
        value = CART if row["denied"] == "spiffe_id" else read_csr(csr).spki_sha256
        _deny(ca, row["denied"], value, clock)
    hours = row.get("lifetime_hours")
    request = SigningRequest(
        csr=csr,
        spiffe_id=SpiffeId.parse(row["asked"]) if "asked" in row else None,
        lifetime=None if hours is None else timedelta(hours=hours),
    )
    caller = CALLERS[row.get("caller", "cart")]

    with pytest.raises(IssueRefusedError, match=row["words"]) as caught:
        ca.issuance.sign(request, caller)

    assert caught.value.reason is Refusal(row["reason"])
    assert "\n" not in str(caught.value)
    assert ca.rows() == ()
    [recorded] = ca.events("svid_refused")
    assert (recorded["reason"], recorded["method"]) == (row["reason"], caller.method.value)
    assert ca.verified().intact


def test_the_table_is_made_of_refusals_only(ca):
    """The same caller with nothing bent is signed, so each row fails for what it bent."""
    ca.add()
    issued = ca.issuance.sign(SigningRequest(csr=make_csr(CART)), CART_CALLER)

    assert str(issued.spiffe_id) == CART
    assert [row.serial for row in ca.rows()] == [issued.serial]


def test_only_key_and_id_of_a_request_are_used(ca, authority):
    """Subject, DNS names and usages that a CSR asks for are nowhere in the certificate."""
    ca.add(dns_names=("cart.shop.svc",))
    key = ec.generate_private_key(ec.SECP384R1())
    usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CODE_SIGNING])
    csr = make_csr(CART, key=key, extensions=[usage])

    leaf = ca.issuance.sign(SigningRequest(csr=csr), CART_CALLER).chain[0]

    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert leaf.subject.rdns == []
    assert [name.value for name in names] == [CART, "cart.shop.svc"]
    assert leaf.public_key() == key.public_key()
    asked = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert x509.oid.ExtendedKeyUsageOID.CODE_SIGNING not in asked


def test_without_an_id_the_only_one_is_given_and_of_two_none(ca):
    """A CSR that names no ID gets the caller's only one; with two to choose from it is refused."""
    ca.add()
    assert str(ca.issuance.sign(SigningRequest(csr=make_csr()), CART_CALLER).spiffe_id) == CART
    ca.add("spiffe://example.org/second", "k8s:ns:shop")
    with pytest.raises(IssueRefusedError, match="2 IDs") as caught:
        ca.issuance.sign(SigningRequest(csr=make_csr()), CART_CALLER)
    assert caught.value.reason is Refusal.ID_AMBIGUOUS


def test_a_template_gives_each_service_account_its_own_id(ca):
    """`{ns}` and `{sa}` stand for what the token proved, so nobody gets another's ID by it."""
    ca.add("spiffe://example.org/ns/{ns}/sa/{sa}", "k8s:cluster:main", entry_id="all")
    caller = replace(CART_CALLER, selectors=CART_CALLER.selectors | {"k8s:cluster:main"})

    assert str(ca.issuance.sign(SigningRequest(csr=make_csr()), caller).spiffe_id) == CART
    with pytest.raises(IssueRefusedError, match="may not hold"):
        other = make_csr("spiffe://example.org/ns/shop/sa/pay")
        ca.issuance.sign(SigningRequest(csr=other), caller)
    two_accounts = replace(caller, selectors=caller.selectors | {"k8s:sa:pay"})
    with pytest.raises(IssueRefusedError, match="no registration entry"):
        ca.issuance.sign(SigningRequest(csr=make_csr()), two_accounts)


def test_an_entry_removed_elsewhere_stops_the_very_next_certificate(ca, tmp_path):
    """The registry in memory may be old; the row is checked against the ledger's own revision."""
    ca.add()
    with ca.store.write() as connection:
        assert delete_entry(connection, "entry-cart")
    # Not refreshed: as if another replica had removed it.
    with pytest.raises(IssueRefusedError, match="no registration entry"):
        ca.issuance.sign(SigningRequest(csr=make_csr(CART)), CART_CALLER)
    assert ca.rows() == ()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_bytes_are_refused_or_are_a_request(data):
    """Whatever comes, read_csr returns a request whose signature holds, or refuses by name."""
    der = data.draw(st.sampled_from(SAMPLES))
    start = data.draw(st.integers(0, len(der)))
    bent = (
        der[:start] + data.draw(st.binary(max_size=8)) + der[start + data.draw(st.integers(0, 9)) :]
    )
    try:
        found = read_csr(bent)
    except IssueRefusedError as exc:
        assert exc.reason is not Refusal.BAD_REQUEST
    else:
        assert found.spki_sha256 == spki_digest(found.public_key)
