"""A leaf read back by its form: whatever is made, the long way says the same of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from ca import validate
from ca.errors import SvidInvalidError
from ca.key_kinds import KeyKind, generate_key, signature_hash
from ca.leaf_form import LeafForm
from ca.leaf_pattern import LeafFields, leaf_pattern
from ca.profile import Validity, build_intermediate, build_root
from identity.spiffe_id import SpiffeId, TrustDomain

DOMAIN = TrustDomain("example.org")
NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
KINDS = (KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048)
KEYS = {kind: [generate_key(kind) for _ in range(2)] for kind in KINDS}
IDS = [SpiffeId(DOMAIN, path) for path in ("/ns/shop/sa/cart", "/pay")]
DAY = timedelta(days=1)


def _authority(kind: KeyKind):
    """Return the intermediates above a leaf and the roots, as the same objects each time."""
    key, validity = KEYS[kind][0], Validity.of(NOW, timedelta(days=9), None)
    root = build_root(DOMAIN, key.public_key(), 77, validity).sign(key, signature_hash(key))
    built = build_intermediate(root, DOMAIN, key.public_key(), 78, validity)
    return (built.sign(key, signature_hash(key)),), (root,)


AUTHORITIES = {kind: _authority(kind) for kind in KINDS}


def _wanted(**changes) -> LeafFields:
    """Return the fields of a good leaf, some of them changed."""
    fields = {
        "serial": 2**150 + 4711,
        "validity": Validity.of(NOW, timedelta(hours=1), None),
        "spiffe_id": IDS[0],
        "key": KEYS[KeyKind.EC_P256][1].public_key(),
        "dns_names": ("cart.shop.svc",),
    }
    return LeafFields(**fields | changes)


def _made(leaf: LeafFields, kind: KeyKind = KeyKind.EC_P256) -> bytes:
    """Return a leaf signed by an authority of a kind."""
    return leaf_pattern(AUTHORITIES[kind][0][0], KEYS[kind][0]).sign(leaf, KEYS[kind][0])


def _said(made: bytes, wanted: LeafFields, kind: KeyKind, now: datetime) -> str:
    """Return what reading a leaf back comes to: nothing, or the requirement that it breaks."""
    try:
        validate.read_made(made, wanted, *AUTHORITIES[kind], now=now)
    except SvidInvalidError as exc:
        return str(exc)
    return ""


class Twin:
    """Reads leaves back both ways."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fitting, self._patch = 0, monkeypatch
        plain = LeafForm.fits

        def counted(*arguments) -> bool:
            does_fit = plain(*arguments)
            self.fitting += does_fit
            return does_fit

        monkeypatch.setattr(LeafForm, "fits", counted)

    def says(self, made, wanted, kind=KeyKind.EC_P256, now=NOW) -> str:
        """Return what both ways say, which is one."""
        short = _said(made, wanted, kind, now)
        with self._patch.context() as patched:
            patched.setattr(validate, "_forms", {})
            assert _said(made, wanted, kind, now) == short
        return short


@pytest.fixture
def twin(monkeypatch) -> Twin:
    """Both ways, beginning with no form."""
    monkeypatch.setattr(validate, "_forms", {})
    return Twin(monkeypatch)


LEAVES = st.builds(
    LeafFields,
    serial=st.integers(1, 2**159 - 1) | st.sampled_from([1, 127, 128, 2**159 - 1]),
    validity=st.builds(
        lambda begins, lasts: Validity(not_before=begins, not_after=begins + lasts),
        st.sampled_from([NOW - DAY, NOW, NOW + DAY, datetime(2049, 12, 31, tzinfo=UTC)]),
        st.sampled_from([DAY / 24, DAY, 2 * DAY, 9000 * DAY]),
    ),
    spiffe_id=st.sampled_from(IDS),
    key=st.sampled_from([key.public_key() for keys in KEYS.values() for key in keys]),
    dns_names=st.sampled_from([(), ("a",), ("b",), ("a", "b")]),
)


@settings(max_examples=60, deadline=None)
@given(
    cases=st.lists(
        st.tuples(LEAVES, LEAVES, st.sampled_from([True, True, False]), st.sampled_from(KINDS)),
        min_size=1,
        max_size=8,
    )
)
def test_both_ways_say_the_same(cases):
    """Leaves good and bad, wanted or not, by every kind of key, one after the other."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(validate, "_forms", {})
        twin = Twin(monkeypatch)
        for wanted, other, is_wanted, kind in cases:
            twin.says(_made(wanted if is_wanted else other, kind), wanted, kind)


def test_the_second_leaf_of_a_workload_fits(twin):
    """Whatever its serial number, span and key are; another name, or kind of key, does not."""
    good = [
        {},
        {"serial": 1},
        {"serial": 2**159 - 1},
        {"key": KEYS[KeyKind.EC_P256][0].public_key()},
        {"validity": Validity.of(NOW, timedelta(hours=2), None)},
    ]
    for changes in good:
        assert twin.says(_made(_wanted(**changes)), _wanted(**changes)) == ""
    assert twin.fitting == len(good) - 1
    others = [
        {"spiffe_id": IDS[1]},
        {"dns_names": ("pay.shop.svc",)},
        {"key": KEYS[KeyKind.EC_P384][0].public_key()},
        {"key": KEYS[KeyKind.RSA_2048][0].public_key()},
    ]
    for changes in others:
        assert twin.says(_made(_wanted(**changes)), _wanted(**changes)) == ""
    assert twin.fitting == len(good) - 1


def test_a_form_ends_with_its_authorities(twin):
    """Outside the span of the authorities or of the leaf nothing fits, and it is said why."""
    made = _made(_wanted())
    assert [twin.says(made, _wanted()) for _ in range(2)] == ["", ""]
    for now in (NOW - DAY, NOW + DAY, NOW + 10 * DAY):
        assert "not in its validity" in twin.says(made, _wanted(), now=now)


def _signed_anew(tbs: bytes, made: bytes) -> bytes:
    """Return a leaf of other bytes under a good signature of the authority."""
    key = KEYS[KeyKind.EC_P256][0]
    pattern = leaf_pattern(AUTHORITIES[KeyKind.EC_P256][0][0], key)
    signature = key.sign(tbs, ec.ECDSA(signature_hash(key)))
    bits = b"\x03" + bytes((len(signature) + 1, 0)) + signature
    content = tbs + pattern.algorithm + bits
    return made[:2] + len(content).to_bytes(2) + content


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@pytest.mark.parametrize("is_signed", [True, False])
def test_a_changed_octet_is_found_by_both(twin, is_signed):
    """One bit turned anywhere, before the signature or after it: both ways say the same of it."""
    made = _made(_wanted())
    tbs = x509.load_der_x509_certificate(made).tbs_certificate_bytes
    whole, accepted, fitting = tbs if is_signed else made, 0, []
    for place in range(len(whole)):
        # So that each is held against the good leaf's form, not against one that was changed.
        assert twin.says(made, _wanted()) == ""
        changed, before = bytearray(whole), twin.fitting
        changed[place] ^= 1 << place % 8
        leaf = _signed_anew(bytes(changed), made) if is_signed else bytes(changed)
        accepted += twin.says(leaf, _wanted()) == ""
        if twin.fitting > before:
            fitting.append(place)
    # A key's identifier is a help to find the key: nothing is decided by it.
    identifier = tbs.index(bytes.fromhex("0603551d0e04160414")) + 9
    assert fitting == (list(range(identifier, identifier + 20)) if is_signed else [])
    assert is_signed or not accepted


def test_parts_that_move_do_not_fit(twin):
    """Another extension, one more, one less, or an order of them: as the long way says."""
    key, [issuer] = KEYS[KeyKind.EC_P256][0], AUTHORITIES[KeyKind.EC_P256][0]
    pattern = leaf_pattern(issuer, key)
    assert twin.says(pattern.sign(_wanted(), key), _wanted()) == ""
    extra = bytes.fromhex("300f06092b060105050730010504020500")
    changes = [
        {"extensions": pattern.extensions + extra},
        {"extensions": extra + pattern.extensions},
        {"extensions": pattern.extensions[:-1]},
        {"extensions": b""},
        {"issuer": pattern.subject},
        {"version": bytes.fromhex("a003020101")},
        {"version": b""},
        {"algorithm": bytes.fromhex("300a06082a8648ce3d040303")},
        {"key_identifier_head": pattern.names_head, "names_head": pattern.key_identifier_head},
    ]
    for each in changes:
        assert twin.says(replace(pattern, **each).sign(_wanted(), key), _wanted()) != ""
    assert twin.fitting == 0
    # A subject is none of the standard's requirements, and none of the form either.
    made = replace(pattern, subject=pattern.issuer).sign(_wanted(), key)
    assert (twin.says(made, _wanted()), twin.fitting) == ("", 0)


def test_forms_do_not_grow_for_ever(monkeypatch, twin):
    """However many workloads there are, so many forms are kept."""
    monkeypatch.setattr(validate, "_MAX_FORMS", 3)
    for number in range(10):
        leaf = _wanted(spiffe_id=SpiffeId(DOMAIN, f"/{number}"))
        validate.read_made(_made(leaf), leaf, *AUTHORITIES[KeyKind.EC_P256], now=NOW)
    assert len(validate._forms) <= 3
