"""Leaves by pattern: the same bytes as the library's own, and nothing but what was wanted."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from ca.errors import SvidInvalidError
from ca.key_kinds import KeyKind, generate_key, signature_hash
from ca.leaf_pattern import LeafFields, leaf_pattern
from ca.profile import Validity, build_intermediate, build_leaf, build_root
from ca.svid import der_to_pem, to_pem
from ca.validate import read_made
from identity.spiffe_id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("example.org")
CART = SpiffeId(DOMAIN, "/ns/shop/sa/cart")
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
KEYS = {kind: generate_key(kind) for kind in (KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048)}
SEGMENTS = st.lists(st.text("abXY09_-", min_size=1, max_size=90), min_size=1, max_size=5)
LABELS = st.text("abcxyz019", min_size=1, max_size=60)
# UTCTime ends with 2049, and bytes of two digits have a length of their own.
MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2120, 1, 1)).map(
    lambda at: at.replace(microsecond=0, tzinfo=UTC)
)


def _authority(kind: KeyKind) -> tuple[x509.Certificate, x509.Certificate]:
    """Return an intermediate whose key is of a kind, and its root."""
    key, validity = KEYS[kind], Validity.of(NOW, timedelta(days=9), None)
    root = build_root(DOMAIN, key.public_key(), 77, validity).sign(key, signature_hash(key))
    built = build_intermediate(root, DOMAIN, key.public_key(), 78, validity)
    return built.sign(key, signature_hash(key)), root


AUTHORITIES = {kind: _authority(kind) for kind in KEYS}


SPANS = st.builds(
    lambda begins, lasts: Validity(not_before=begins, not_after=begins + timedelta(seconds=lasts)),
    MOMENTS,
    st.integers(1, 10**9),
)
LEAVES = st.builds(
    LeafFields,
    serial=st.integers(1, 2**159 - 1) | st.sampled_from([1, 127, 128, 255, 256, 2**159 - 1]),
    validity=SPANS,
    spiffe_id=SEGMENTS.map(lambda segments: SpiffeId(DOMAIN, "/" + "/".join(segments))),
    key=st.sampled_from([key.public_key() for key in KEYS.values()]),
    dns_names=st.lists(LABELS, max_size=4).map(tuple),
)


@settings(max_examples=120, deadline=None)
@given(signer=st.sampled_from(list(KEYS)), leaf=LEAVES)
def test_a_pattern_gives_what_the_library_gives(signer, leaf):
    """Whatever a leaf holds, its bytes are those that the library's builder makes."""
    issuer, signing = AUTHORITIES[signer][0], KEYS[signer]
    theirs = build_leaf(
        issuer, leaf.spiffe_id, leaf.dns_names, leaf.key, leaf.serial, leaf.validity
    ).sign(signing, signature_hash(signing))
    assert leaf_pattern(issuer, signing).encode(leaf) == theirs.tbs_certificate_bytes
    encoded = leaf_pattern(issuer, signing).sign(leaf, signing)
    made = x509.load_der_x509_certificate(encoded)
    assert made.public_bytes(serialization.Encoding.DER) == encoded
    assert der_to_pem(encoded).encode() == to_pem((made,))
    made.verify_directly_issued_by(issuer)
    assert made.signature_algorithm_oid == theirs.signature_algorithm_oid


def _wanted(**changes) -> LeafFields:
    """Return the fields of a good leaf, some of them changed."""
    fields = {
        "serial": 4711,
        "validity": Validity.of(NOW, timedelta(hours=1), None),
        "spiffe_id": CART,
        "key": KEYS[KeyKind.EC_P256].public_key(),
        "dns_names": ("cart.shop.svc",),
    }
    return LeafFields(**fields | changes)


OTHERS = {
    "the serial number is not the one that was drawn": {"serial": 4712},
    "the validity is not the one that was granted": {
        "validity": Validity.of(NOW, timedelta(hours=2), None)
    },
    "expected `spiffe://example.org/ns/shop/sa/cart`": {"spiffe_id": SpiffeId(DOMAIN, "/pay")},
    "the private key does not belong to the leaf": {"key": KEYS[KeyKind.EC_P384].public_key()},
    "the names are not those that were granted": {"dns_names": ()},
}


@pytest.mark.parametrize(("message", "changes"), OTHERS.items())
def test_a_leaf_that_is_not_the_one_wanted_is_thrown_away(message, changes):
    """Whatever of a made leaf differs from what was wanted is found and named."""
    issuer, root = AUTHORITIES[KeyKind.EC_P256]
    signing = KEYS[KeyKind.EC_P256]
    made = leaf_pattern(issuer, signing).sign(_wanted(**changes), signing)
    with pytest.raises(SvidInvalidError, match=message):
        read_made(made, _wanted(), (issuer,), (root,), now=NOW)
    good = leaf_pattern(issuer, signing).sign(_wanted(), signing)
    assert read_made(good, _wanted(), (issuer,), (root,), now=NOW).serial_number == 4711


def test_a_leaf_with_more_than_its_profile_is_thrown_away():
    """One more extension, or one more name, is not passed over, well signed though it is."""
    issuer, root = AUTHORITIES[KeyKind.EC_P256]
    signing = KEYS[KeyKind.EC_P256]
    pattern = leaf_pattern(issuer, signing)
    # id-pkix-ocsp-nocheck, whose value is NULL.
    encoded = bytes.fromhex("300f06092b06010505073001050402" + "0500")
    made = replace(pattern, extensions=pattern.extensions + encoded).sign(_wanted(), signing)
    with pytest.raises(SvidInvalidError, match="more than its profile"):
        read_made(made, _wanted(), (issuer,), (root,), now=NOW)


@pytest.mark.parametrize("place", range(0, 700, 23))
def test_a_changed_bit_is_found(place):
    """A leaf with one bit turned is thrown away, wherever the bit lies."""
    issuer, root = AUTHORITIES[KeyKind.EC_P256]
    signing = KEYS[KeyKind.EC_P256]
    made = bytearray(leaf_pattern(issuer, signing).sign(_wanted(), signing))
    made[place % len(made)] ^= 1
    with pytest.raises(SvidInvalidError):
        read_made(bytes(made), _wanted(), (issuer,), (root,), now=NOW)
