"""Who asks: each proof by itself, what contradicts it, and whatever bytes arrive."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from certificate_making import AUTHORITY, LEAF, NOW, Made, Recipe, make
from hypothesis import given, settings
from hypothesis import strategies as st

from identity.deny_list import DenyList
from identity.errors import CertificateError
from identity.mapping import MappingSet, RuleTexts, make_mapping
from identity.peer import Peer, PeerProof
from identity.peer_certificate import certificate_from_chain, read_peer_certificate
from identity.peer_finding import PeerEvidence, PeerFault, PeerFinding, PeerRules, find_peer
from identity.spiffe_id import TrustDomain
from identity.svid_memory import SvidMemory
from identity.trust_bundle import BundleSet, TrustBundle
from identity.xfcc_trust import ForwardMode, XfccTrust, parse_forwarder

ROOT = make(Recipe.of({"subject": "root"}, AUTHORITY))
INTER = make(Recipe.of({"subject": "inter"}, AUTHORITY), ROOT)
STRANGER = make(Recipe.of({"subject": "root"}, AUTHORITY))
CART = "spiffe://example.org/ns/shop/sa/cart"
GATEWAY = "spiffe://example.org/ns/edge/sa/gateway"
BUNDLES = BundleSet.of(
    TrustBundle(trust_domain=TrustDomain("example.org"), x509_authorities=(ROOT.certificate,))
)
FORWARDING = PeerRules(
    xfcc=XfccTrust(forwarders=(parse_forwarder(GATEWAY),), own_mode=ForwardMode.FORWARD_ONLY)
)


def leaf(issuer: Made = ROOT, **fields: Any) -> Made:
    """Return a leaf, of the cart unless told otherwise."""
    return make(Recipe.of(fields, LEAF), issuer)


def encoded(*chain: Made) -> str:
    """Return a chain as Envoy sends it."""
    return quote("".join(each.pem.decode() for each in chain))


GOOD = leaf()


def find(
    principal: str = "",
    rules: PeerRules | None = None,
    bundles: BundleSet | None = None,
    *,
    at: datetime = NOW,
    **evidence: Any,
) -> PeerFinding:
    """Return who asks."""
    told = PeerEvidence(principal=principal, **evidence)
    return find_peer(told, rules or PeerRules(), bundles or BundleSet(), at)


def test_nobody() -> None:
    """Nothing told is nobody."""
    assert find() == PeerFinding(steps=("no client certificate",))


def test_envoys_word() -> None:
    """A name alone is believed of Envoy."""
    found = find(CART)

    assert Peer.from_principal(CART) == found.peer
    assert found.peer is not None
    assert PeerProof.TLS is found.peer.proof


def test_certificate_without_bundles() -> None:
    """Without bundles a certificate adds its names, and Envoy's word stays the proof."""
    made = leaf(dns=("cart.shop", "b"), subject="x")
    found = find(CART, certificate=encoded(made))

    assert found.peer is not None
    assert (CART, "cart.shop", "b", "CN=x") == found.peer.names
    assert PeerProof.TLS is found.peer.proof


def test_certificate_with_bundles() -> None:
    """With the trust domain's bundle the certificate is verified, with its chain if it came."""
    for chain in ((GOOD,), (leaf(INTER), INTER)):
        found = find(CART, bundles=BUNDLES, certificate=encoded(*chain))
        assert found.peer is not None, found.detail
        assert PeerProof.CERTIFICATE is found.peer.proof


@pytest.mark.parametrize(
    ("made", "at", "why"),
    [
        (leaf(STRANGER), NOW, "untrusted"),
        (leaf(INTER), NOW, "untrusted"),
        (GOOD, NOW + timedelta(days=2), "expired"),
        (GOOD, NOW - timedelta(days=2), "not_yet_valid"),
        (leaf(ca=True), NOW, "ca_as_leaf"),
        (leaf(uris=(CART, CART + "2")), NOW, "uri_san_count"),
        (leaf(uris=(CART, CART)), NOW, "uri_san_count"),
        (leaf(uris=(), dns=(CART,)), NOW, "uri_san_count"),
        (leaf(uris=(CART + "\0",)), NOW, "spiffe_id"),
        (leaf(uris=("spiffe://example.org/ns/sh%6fp/sa/cart",)), NOW, "spiffe_id"),
        (leaf(uris=("spiffe://EXAMPLE.org/ns/shop/sa/cart",)), NOW, "spiffe_id"),
        (leaf(uris=("spiffe://other.org/x", CART)), NOW, "uri_san_count"),
        (leaf(uris=("spiffe://example.org",)), NOW, "no_path"),
    ],
)
def test_certificate_that_does_not_verify(made: Made, at: datetime, why: str) -> None:
    """A certificate that Envoy let in and the bundle does not is refused, by name."""
    text = encoded(made)
    principal = read_peer_certificate(text).principal
    found = find(principal, bundles=BUNDLES, certificate=text, at=at)

    assert found.peer is None
    assert PeerFault.CERTIFICATE_UNTRUSTED is found.fault
    assert found.detail.startswith(f"{why}:")


def test_bundles_that_are_not_there_yet() -> None:
    """Where certificates must be verified, none is believed before there is a bundle."""
    for rules in (
        PeerRules(verified_domains=frozenset({"example.org"})),
        PeerRules(verify_all=True),
    ):
        found = find(CART, rules, certificate=encoded(GOOD))
        assert PeerFault.CERTIFICATE_UNTRUSTED is found.fault
        assert found.detail.startswith("no_bundle:")


def test_other_trust_domains() -> None:
    """A peer of a trust domain without bundle has Envoy's word, unless all must be verified."""
    other = "spiffe://other.org/ns/shop/sa/cart"
    for name in (other, "cart.shop"):
        fields = {"uris": (other,)} if name == other else {"uris": (), "dns": (name,)}
        text = encoded(leaf(**fields))
        found = find(name, bundles=BUNDLES, certificate=text)
        assert found.peer is not None
        assert PeerProof.TLS is found.peer.proof
        strict = find(name, PeerRules(verify_all=True), BUNDLES, certificate=text)
        assert PeerFault.CERTIFICATE_UNTRUSTED is strict.fault


def test_all_must_be_verified() -> None:
    """Then a name without a certificate is refused, and plaintext is still nobody."""
    rules = PeerRules(verify_all=True)

    assert PeerFault.CERTIFICATE_UNTRUSTED is find(CART, rules, BUNDLES).fault
    assert find("", rules, BUNDLES) == PeerFinding(steps=("no client certificate",))
    assert find(CART, rules, BUNDLES, certificate=encoded(GOOD)).peer is not None


@pytest.mark.parametrize(
    ("name", "bundles", "domains", "is_refused"),
    [
        (CART, BUNDLES, (), True),
        (CART, BundleSet(), ("example.org",), True),
        (CART.replace("example", "EXAMPLE"), BUNDLES, (), True),
        ("spiffe://other.org/ns/shop/sa/cart", BUNDLES, (), False),
        ("cart.shop", BUNDLES, (), False),
        (CART, BundleSet(), (), False),
        ("", BUNDLES, (), False),
    ],
)
def test_envoy_that_sends_no_certificate(
    name: str, bundles: BundleSet, domains: tuple[str, ...], is_refused: bool
) -> None:
    """Who must verify is not believed by name alone; the record says what Envoy lacks."""
    rules = PeerRules(verified_domains=frozenset(domains))
    found = find(name, rules, bundles)

    assert is_refused is (PeerFault.CERTIFICATE_UNTRUSTED is found.fault)
    assert not is_refused or "lacks include_peer_certificate" in found.detail
    supposed = find(name, replace(rules, is_connection_supposed=True), bundles)
    assert supposed.peer == Peer.from_principal(name)


def test_a_waypoint_that_can_send_no_certificate() -> None:
    """The word of a waypoint or a proxy that is trusted to forward needs none."""
    named = find("", PeerRules(forwarded_key="k"), BUNDLES, forwarded=(CART,))
    shown = encoded(leaf(uris=(GATEWAY,)))
    passed_on = find(GATEWAY, FORWARDING, BUNDLES, xfcc=f"URI={CART}", certificate=shown)
    for found in (named, passed_on):
        assert found.peer is not None, found.detail
        assert found.peer.principal == CART


@pytest.mark.parametrize("principal", ["", CART + "/", "CN=x", CART.upper(), GATEWAY])
def test_certificate_of_somebody_else(principal: str) -> None:
    """A certificate that disagrees with the name Envoy reports is refused."""
    found = find(principal, certificate=encoded(GOOD))

    assert (None, PeerFault.CERTIFICATE_MISMATCH) == (found.peer, found.fault)


def test_second_name_as_principal() -> None:
    """Envoy reports the first name: another of the same certificate is not it."""
    text = encoded(leaf(uris=("spiffe://example.org/a", CART)))

    assert PeerFault.CERTIFICATE_MISMATCH is find(CART, certificate=text).fault
    found = find("spiffe://example.org/a", certificate=text)
    assert found.peer is not None
    assert CART in found.peer.names


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "%",
        "%zz",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN%20CERTIFICATE-----%0AAAAA%0A-----END%20CERTIFICATE-----%0A",
        encoded(GOOD)[:-40],
        encoded(GOOD).replace("%0A", "%0A%00", 1),
        encoded(GOOD).replace("M", "%FF", 1),
        encoded(GOOD) + "é",
        encoded(GOOD) * 600,
        quote(GOOD.key_pem.decode()),
    ],
)
def test_unreadable_certificate(text: str) -> None:
    """A certificate that cannot be read leaves open who asks: refused."""
    found = find(CART, certificate=text)

    assert PeerFault.CERTIFICATE_UNREADABLE is found.fault


def forwarded(**fields: Any) -> str:
    """Return a header with the cart's certificate, its words as given."""
    made = fields.pop("made", GOOD)
    words = {"Hash": certificate_from_chain((made.der,)).sha256, "Cert": f'"{encoded(made)}"'}
    words |= {"URI": CART} | fields
    return ";".join(f"{key}={value}" for key, value in words.items() if value is not None)


def test_forwarded_certificate() -> None:
    """The certificate in a believed header gives the names, and is verified like any other."""
    own = encoded(leaf(uris=(GATEWAY,)))
    found = find(GATEWAY, FORWARDING, xfcc=forwarded(), bundles=BUNDLES, certificate=own)

    assert found.peer is not None, found.detail
    assert (CART, PeerProof.XFCC) == (found.peer.principal, found.peer.proof)


def test_forwarded_certificate_alone() -> None:
    """A certificate needs no other words beside it, and an empty name in it is none."""
    for made in (GOOD, leaf(uris=("", CART)), leaf(uris=("",), dns=(CART,))):
        header = forwarded(made=made, URI=None, Hash=None)
        found = find(GATEWAY, FORWARDING, xfcc=header)
        assert found.peer is not None, found.detail
        assert CART == found.peer.principal
    nameless = forwarded(made=leaf(uris=("",)), URI=None)
    assert PeerFault.XFCC_INVALID is find(GATEWAY, FORWARDING, xfcc=nameless).fault
    nobody = forwarded(made=leaf(uris=()), URI=None)
    assert PeerFault.XFCC_INVALID is find(GATEWAY, FORWARDING, xfcc=nobody).fault


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        (forwarded(Hash="0" * 64), PeerFault.XFCC_INVALID),
        (forwarded(URI=CART + "2"), PeerFault.XFCC_INVALID),
        (forwarded(Subject='"CN=x"'), PeerFault.XFCC_INVALID),
        (forwarded(DNS="x"), PeerFault.XFCC_INVALID),
        (forwarded(Chain=f'"{encoded(leaf(), GOOD)}"'), PeerFault.XFCC_INVALID),
        (forwarded(Cert='"x"'), PeerFault.XFCC_INVALID),
        (forwarded(Chain='"x"'), PeerFault.XFCC_INVALID),
        (forwarded() + ",", PeerFault.XFCC_INVALID),
        (forwarded() + ";Hash=" + "0" * 64, PeerFault.XFCC_INVALID),
        (forwarded(URI="", Cert=None), PeerFault.XFCC_INVALID),
        (forwarded(made=leaf(STRANGER)), PeerFault.CERTIFICATE_UNTRUSTED),
    ],
    # The keys are new in each process, and the names of the tests must not be.
    ids=range(11),
)
def test_forwarded_contradiction(header: str, fault: PeerFault) -> None:
    """A believed header that contradicts itself is refused, by name."""
    own = encoded(leaf(uris=(GATEWAY,)))
    found = find(GATEWAY, FORWARDING, xfcc=header, bundles=BUNDLES, certificate=own)
    assert fault is found.fault


@pytest.mark.parametrize("header", ["", ",", "URI=" + CART, 'URI="', "\0", "ü", "=" * 99999])
def test_forged_header(header: str) -> None:
    """Of a peer that is not trusted no header counts, well-formed or not, and none harms."""
    found = find(CART, FORWARDING, xfcc=header)

    assert Peer.from_principal(CART) == found.peer
    assert found.xfcc.startswith("ignored") or not header


def test_waypoint() -> None:
    """Under the configured key the filter state names the peer, one name that TLS does not deny."""
    rules = PeerRules(forwarded_key="k")

    named = find(rules=rules, forwarded=(CART,)).peer
    assert named is not None
    assert (CART, PeerProof.FILTER_STATE) == (named.principal, named.proof)
    assert find(rules=rules, forwarded=()).peer is None
    assert find(rules=rules, forwarded=("",)).peer is None
    assert find(rules=rules, forwarded=("-",)).peer is None
    assert find(forwarded=(CART,)).peer is None
    same = find(CART, rules, forwarded=(CART,)).peer
    assert same is not None
    assert PeerProof.TLS is same.proof
    for told in ((CART, CART), (CART, GATEWAY), ("a\nb",), ("a\0",), ("x" * 9999,)):
        assert PeerFault.FORWARDED_INVALID is find(rules=rules, forwarded=told).fault
    assert PeerFault.FORWARDED_INVALID is find(CART, rules, forwarded=(GATEWAY,)).fault


def test_mapped() -> None:
    """The mapping speaks last: the principal stays, namespace and account are its."""
    rule = RuleTexts(pattern="/{a}/{b}", namespace="{a}", service_account="{b}")
    maps = MappingSet((make_mapping("m", [TrustDomain("td")], [rule]),))
    found = find("spiffe://td/shop/cart", PeerRules(mappings=maps)).peer

    assert found is not None
    assert ("spiffe://td/shop/cart", ("shop", "cart")) == (found.principal, found.workload)
    assert ("spiffe://td/ns/shop/sa/cart",) == found.workload_names(wide=False)


def test_memory() -> None:
    """A verified chain is remembered while it holds and the bundles are the same, no longer."""
    memory = SvidMemory()
    chain = (GOOD.der,)
    first = memory.verify(chain, BUNDLES, NOW)

    assert first is memory.verify(chain, BUNDLES, NOW)
    assert type(first) is not type(memory.verify(chain, BundleSet(), NOW))
    assert type(first) is not type(memory.verify(chain, BUNDLES, NOW + timedelta(days=3)))
    assert first == memory.verify(chain, BUNDLES, NOW)


EDGE = "spiffe://example.org/ns/edge/sa/outer"
ROW = XfccTrust(
    forwarders=tuple(
        parse_forwarder(each, mode=ForwardMode.APPEND_FORWARD) for each in (GATEWAY, EDGE)
    ),
    own_mode=ForwardMode.FORWARD_ONLY,
    max_hops=2,
)


@pytest.mark.parametrize(("denied", "fault"), [(EDGE, PeerFault.DENIED), (None, None)])
def test_a_denied_proxy_in_the_row_has_no_word(denied: str | None, fault: PeerFault | None) -> None:
    """A proxy that was stepped over is a peer too: on the deny list, by name or certificate."""
    outer = leaf(uris=(EDGE,))
    serial = f"{outer.certificate.serial_number:040x}"
    for mark in (("spiffe_id", EDGE), ("serial", serial)):
        listed = DenyList(until={} if denied is None else {mark: None})
        rules = PeerRules(xfcc=ROW, denied=lambda listed=listed: listed)
        header = f'URI={CART},Cert="{encoded(outer)}";URI={EDGE}'
        found = find(GATEWAY, rules, xfcc=header)
        assert fault is found.fault, found.detail
        assert fault or (found.peer is not None and found.peer.principal == CART)


def test_a_proxy_in_the_row_must_be_its_certificate() -> None:
    """What the header says of a proxy that is stepped over must not contradict itself."""
    header = f'URI={CART},Cert="{encoded(GOOD)}";URI={EDGE}'
    found = find(GATEWAY, PeerRules(xfcc=ROW), xfcc=header)
    assert PeerFault.XFCC_INVALID is found.fault


def test_who_must_verify_brings_a_certificate() -> None:
    """Where every peer must verify, no word of a proxy or a waypoint takes the place of that."""
    rules = PeerRules(verify_all=True, forwarded_key="k", xfcc=FORWARDING.xfcc)
    gateway = {"certificate": encoded(leaf(uris=(GATEWAY,)))}
    waypoint = find("", rules, BUNDLES, forwarded=(CART,))
    bare = find(GATEWAY, rules, BUNDLES, xfcc=f"URI={CART}", **gateway)
    for found in (waypoint, bare):
        assert PeerFault.CERTIFICATE_UNTRUSTED is found.fault
        assert "no certificate to verify" in found.detail
    header = f'Cert="{encoded(GOOD)}";URI={CART}'
    whole = find(GATEWAY, rules, BUNDLES, xfcc=header, **gateway)
    assert whole.peer is not None, whole.detail
    assert whole.peer.principal == CART


@given(st.binary(max_size=300), st.text(max_size=60), st.text(max_size=60), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes(raw: bytes, name: str, header: str, is_trusted: bool) -> None:
    """Whatever arrives, somebody, nobody or a named fault comes out, never an exception."""
    rules = FORWARDING if is_trusted else PeerRules(forwarded_key="k", verify_all=True)
    for certificate in ("", quote(raw), raw.decode("latin-1")):
        for principal in (name, GATEWAY):
            found = find(
                principal, rules, certificate=certificate, xfcc=header, forwarded=(header,)
            )
            assert found.fault is None or found.peer is None
            if certificate:
                assert found.fault is not None


@given(st.integers(0, len(GOOD.der) - 1), st.integers(0, 255), st.booleans())
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_changed_byte(place: int, byte: int, is_cut: bool) -> None:
    """A certificate with one byte changed is never verified, and never an exception."""
    der = GOOD.der[:place] if is_cut else GOOD.der[:place] + bytes([byte]) + GOOD.der[place + 1 :]
    try:
        certificate = certificate_from_chain((der,))
    except CertificateError:
        return
    verdict = SvidMemory().verify(certificate.chain, BUNDLES, NOW)

    assert der == GOOD.der or not hasattr(verdict, "spiffe_id")
