"""The deny list: whoever is on it is refused, by name, by key or by certificate, at once."""

from __future__ import annotations

import hashlib
import json
import queue
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from certificate_making import LEAF, make
from cryptography.hazmat.primitives import serialization

from ca.revocations import DeniedKind, Revocation, encode_deny_list
from identity.deny_list import DenyListError, DenyListWatch, parse_deny_list
from identity.peer_finding import PeerEvidence, PeerFault, PeerRules, find_peer
from identity.trust_bundle import BundleSet

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CART = "spiffe://example.org/ns/shop/sa/cart"
OTHER = "spiffe://example.org/ns/shop/sa/other"


def document(kind: str, value: str, until: datetime | None = None) -> bytes:
    """What the CA itself writes for one denial."""
    revocation = Revocation(kind=DeniedKind(kind), value=value, revoked_at=AT, expires_at=until)
    return encode_deny_list([revocation], revision=3, now=AT)


def line(kind: str, value: str, until: str | None = None) -> bytes:
    """A list of one denial, whatever it says."""
    denied = [{"kind": kind, "value": value, "until": until}]
    return json.dumps({"version": 1, "revision": 9, "denied": denied}).encode()


def listing(revision: int, denied: dict[str, str | None]) -> bytes:
    """A list of these SPIFFE IDs, each with its end."""
    lines = [{"kind": "spiffe_id", "value": each, "until": end} for each, end in denied.items()]
    return json.dumps({"version": 1, "revision": revision, "denied": lines}).encode()


def find(denied: bytes, principal: str = CART, at: datetime = AT):
    """What is found of a peer under a deny list."""
    found = parse_deny_list(denied)
    rules = PeerRules(denied=lambda: found)
    return find_peer(PeerEvidence(principal=principal), rules, BundleSet(), at)


def test_a_denied_id_is_refused_and_others_are_not() -> None:
    """The list that the CA writes names an ID; a peer of that ID is refused, its neighbour not."""
    found = find(document("spiffe_id", CART))
    assert PeerFault.DENIED is found.fault
    assert "deny list" in found.detail
    assert find(document("spiffe_id", CART), CART + "2").fault is None
    assert find(document("spiffe_id", CART), "").fault is None


def test_a_denial_ends_when_it_says() -> None:
    """A denial with an end counts up to it."""
    listed = document("spiffe_id", CART, AT + timedelta(hours=1))
    assert PeerFault.DENIED is find(listed, at=AT + timedelta(hours=1)).fault
    assert find(listed, at=AT + timedelta(hours=1, seconds=1)).fault is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 2, "revision": 1, "denied": []}',
        b'{"version": 1, "revision": 1, "denied": [{"kind": "ip", "value": "x", "until": null}]}',
        b'{"version": 1, "revision": 1, "denied": [{"kind": "serial", "value": 5, "until": null}]}',
        b'{"version": 1, "revision": 1, "denied": [{"kind": "serial", "value": "5"}]}',
        b'{"version": 1, "revision": 1, "denied": ["x"]}',
        b"[" * 100_000,
        b'{"version": 1, "revision": 1e999, "denied": []}',
        b'{"version": 1, "revision": 2, "denied": [], "denied": []}',
        line("serial", "5"),
        line("serial", "AB" * 20),
        line("spki_sha256", "AB" * 32),
        line("spiffe_id", "example.org/ns/shop/sa/cart"),
        line("spiffe_id", CART, "0001-01-01T00:00:00+14:00"),
    ],
)
def test_a_list_that_is_not_understood_is_refused_as_a_whole(raw: bytes) -> None:
    """No half of a deny list is believed."""
    with pytest.raises(DenyListError):
        parse_deny_list(raw)


def test_a_new_list_counts_and_a_broken_one_leaves_the_last(tmp_path) -> None:
    """The file is looked at again; one that is gone or broken leaves the last list in force."""
    path = tmp_path / "deny-list.json"
    path.write_bytes(encode_deny_list([], revision=1, now=AT))
    watch = DenyListWatch(path)
    assert watch.current().denial_of([CART], None, AT) is None

    path.write_bytes(document("spiffe_id", CART))
    watch.look()
    assert (watch.current().revision, watch.error) == (3, "")
    for spoil in (lambda: path.write_bytes(b"{"), path.unlink):
        spoil()
        watch.look()
        assert watch.error
        assert watch.current().denial_of([CART], None, AT) is not None


def test_of_two_denials_of_one_the_longer_counts() -> None:
    """A second line about somebody does not shorten the first."""
    for ends in (["2026-03-01T13:00:00+00:00", None], [None, "2026-03-01T11:00:00+00:00"]):
        lines = [{"kind": "spiffe_id", "value": CART, "until": each} for each in ends]
        raw = json.dumps({"version": 1, "revision": 1, "denied": lines}).encode()
        assert PeerFault.DENIED is find(raw, at=AT + timedelta(days=1)).fault


ODD = [
    b"{",
    b'{"version": 1, "revision": 1e999, "denied": []}',
    line("spiffe_id", CART, "0001-01-01T00:00:00+14:00"),
    b"\xff\xfe",
]


@pytest.mark.parametrize("odd", ODD)
def test_the_watch_outlives_whatever_the_file_holds(tmp_path, odd: bytes) -> None:
    """After a list that cannot be read the next good one counts, and both are told of."""
    path, told = tmp_path / "deny-list.json", queue.Queue()
    path.write_bytes(encode_deny_list([], revision=1, now=AT))
    watch = DenyListWatch(path, seconds=0.01, tell=lambda each: told.put(each.error))
    watch.start()
    try:
        path.write_bytes(odd)
        assert told.get(timeout=10)
        new = tmp_path / "new"
        new.write_bytes(document("spiffe_id", CART))
        new.replace(path)
        while told.get(timeout=10):
            pass
        assert watch.current().denial_of([CART], None, AT) is not None
    finally:
        watch.stop()


def test_an_older_list_lifts_nothing(tmp_path) -> None:
    """A list of a lower revision adds to what is denied; one that is not older takes its place."""
    path = tmp_path / "deny-list.json"
    path.write_bytes(listing(5, {CART: None}))
    watch = DenyListWatch(path)
    steps = [
        (listing(4, {OTHER: None}), {CART, OTHER}, "went back from revision 5 to 4"),
        (listing(4, {}), {CART, OTHER}, "went back"),
        (b"{", {CART, OTHER}, "cannot be read"),
        (listing(1, {CART: "2026-03-01T11:00:00Z"}), {CART, OTHER}, "went back"),
        (listing(5, {OTHER: None}), {OTHER}, ""),
        (listing(6, {}), set(), ""),
    ]
    for raw, denied, why in steps:
        path.write_bytes(raw)
        for _ in range(2):
            watch.look()
            found = {each for each in (CART, OTHER) if watch.current().denial_of([each], None, AT)}
            assert found == denied
            assert (why in watch.error) and bool(why) is bool(watch.error)


def test_a_listener_that_fails_ends_nothing(tmp_path) -> None:
    """What the listener raises is noted, and the list counts."""
    path = tmp_path / "deny-list.json"
    path.write_bytes(encode_deny_list([], revision=1, now=AT))

    def fail(_watch: DenyListWatch) -> None:
        raise OSError("the log is full")

    watch = DenyListWatch(path, tell=fail)
    path.write_bytes(document("spiffe_id", CART))
    watch.look()
    assert watch.error == "the listener failed: OSError"
    assert watch.current().denial_of([CART], None, AT) is not None


def test_without_its_list_an_authorizer_does_not_start(tmp_path) -> None:
    """A configured list that cannot be read at the start is an error: it might name somebody."""
    with pytest.raises(DenyListError, match="cannot be read"):
        DenyListWatch(tmp_path / "missing.json")


@pytest.mark.parametrize("kind", ["serial", "spki_sha256"])
def test_a_certificate_is_denied_by_serial_number_and_by_key(kind: str) -> None:
    """With the certificate at hand it is denied by what stands in it, whatever its name."""
    leaf = make(LEAF)
    spki = leaf.certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    value = {
        "serial": f"{leaf.certificate.serial_number:040x}",
        "spki_sha256": hashlib.sha256(spki).hexdigest(),
    }[kind]
    pem = quote(leaf.pem.decode())
    for listed, fault in ((value, PeerFault.DENIED), ("0" * len(value), None)):
        found = parse_deny_list(document(kind, listed))
        rules = PeerRules(denied=lambda found=found: found)
        evidence = PeerEvidence(principal=CART, certificate=pem)
        assert find_peer(evidence, rules, BundleSet(), AT).fault is fault
