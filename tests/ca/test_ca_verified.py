"""What our CA issues is what our verifier believes: two rooms, one standard."""

from __future__ import annotations

from datetime import timedelta

from cryptography.hazmat.primitives import serialization

from identity.bundle_document import bundle_from_pem, encode_bundle, parse_bundle
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.svid_fault import SvidFault
from identity.trust_bundle import BundleSet
from identity.x509_svid import X509Svid, verify_svid

EXAMPLE = TrustDomain("example.org")


def der(certificate):
    """The certificate's bytes."""
    return certificate.public_bytes(serialization.Encoding.DER)


def bundles_of(authority):
    """The bundles of a verifier that got our root as a document."""
    pem = authority.root.public_bytes(serialization.Encoding.PEM)
    document = encode_bundle(bundle_from_pem(EXAMPLE, pem))
    return BundleSet.of(parse_bundle(EXAMPLE, document))


def test_an_issued_chain_is_believed(issue, authority, clock):
    """Leaf and intermediate verify against the root, for as long as the leaf lasts."""
    svid = issue(dns_names=("cart.shop.svc",))
    chain = [der(each) for each in svid.chain]

    verdict = verify_svid(chain, bundles_of(authority), clock())

    assert isinstance(verdict, X509Svid), str(verdict)
    assert SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart") == verdict.spiffe_id
    assert svid.leaf.not_valid_after_utc == verdict.valid_until_at
    assert 3 == len(verdict.path)
    clock.now += timedelta(hours=1, seconds=1)
    assert SvidFault.EXPIRED == verify_svid(chain, bundles_of(authority), clock()).fault


def test_an_authority_is_nobodys_leaf(authority, clock):
    """The certificates we sign with identify no workload."""
    for certificate in (authority.root, authority.intermediate):
        verdict = verify_svid([der(certificate)], bundles_of(authority), clock())
        assert SvidFault.CA_AS_LEAF == verdict.fault
