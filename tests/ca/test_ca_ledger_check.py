"""A ledger restored from an older copy: what was revoked since stays revoked, nothing is lost."""

from __future__ import annotations

import json
import shutil
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from issuing import entry_of, make_csr, settings_in

from audit.verify import verify_folder
from ca.books import open_books
from ca.caller import Caller, Method
from ca.errors import AttestationError, IssueRefusedError
from ca.issued import SigningRequest
from ca.join_tokens import JoinToken, JoinTokenAttestor
from ca.ledger import LedgerFilter, format_serial
from ca.ledger_check import catch_up
from ca.renewing import PeerChain, SvidAttestor
from ca.revocations import DeniedKind
from ca.store import Store
from ca.svid import X509Svid
from identity.spiffe_id import SpiffeId
from identity.trust_bundle import TrustBundle

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
OPERATOR = Caller(method=Method.OPERATOR, granted=CART)


@pytest.fixture
def opened(keeper_of, tmp_path, clock):
    """Open a state anew: `with opened() as books`."""

    @contextmanager
    def _opened():
        settings = settings_in(tmp_path, "s")
        with keeper_of(tmp_path / "s") as keeper, open_books(settings, keeper, clock) as books:
            yield keeper, books

    return _opened


def _issue(books) -> X509Svid:
    return books.issuance.issue(CART, OPERATOR)


def _copy(folder, to) -> None:
    """Copy a ledger that nobody has open."""
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (to / name).unlink(missing_ok=True)
        if (folder / name).exists():
            shutil.copy(folder / name, to / name)


@pytest.fixture
def restored(opened, tmp_path, clock):
    """A state whose ledger is of before certificates, denials and a removal that came after."""
    backup = tmp_path / "backup"
    backup.mkdir()
    with opened() as (_, books):
        old = _issue(books)
        for name in ("kept", "gone", "back"):
            books.desk.add_entry(entry_of(name, clock))
    _copy(tmp_path / "s", backup)
    clock.now += timedelta(minutes=1)
    with opened() as (_, books):
        new, bad = _issue(books), _issue(books)
        books.desk.revoke(DeniedKind.SERIAL, format_serial(bad.leaf.serial_number))
        books.desk.revoke(DeniedKind.SERIAL, format_serial(old.leaf.serial_number))
        books.desk.revoke(DeniedKind.SPIFFE_ID, "spiffe://example.org/x")
        books.desk.revoke(DeniedKind.SPIFFE_ID, "spiffe://example.org/lifted")
        books.desk.lift(DeniedKind.SPIFFE_ID, "spiffe://example.org/lifted")
        books.desk.remove_entry("gone")
        books.desk.remove_entry("back")
        books.desk.add_entry(entry_of("back", clock))
    _copy(backup, tmp_path / "s")
    return old, new, bad


def _serial(svid) -> str:
    return format_serial(svid.leaf.serial_number)


def test_what_was_revoked_stays_revoked(opened, restored, tmp_path, clock):
    """Rows, denials and removals since the copy are back, said in `status` and on the chain."""
    old, new, bad = restored
    with opened() as (keeper, books):
        assert "3 denials and 1 removed" in books.caught_up
        assert [t.code for t in books.troubles()] == ["ledger_restored"]
        held = {row.serial: row for row in books.desk.find(LedgerFilter(kinds=("x509",)))}
        assert set(held) == {_serial(svid) for svid in restored}
        row = held[_serial(new)]
        assert (row.spiffe_id, row.method, row.der) == (
            str(CART),
            "operator",
            new.leaf.public_bytes(serialization.Encoding.DER),
        )
        assert row.not_after == new.leaf.not_valid_after_utc
        state = books.registry.state
        for svid in (old, bad):
            denial = state.denial_of(CART, svid.leaf, clock())
            assert denial.expires_at == svid.leaf.not_valid_after_utc
        assert state.denial_of(CART, new.leaf, clock()) is None
        assert {each.value for each in state.denied.values() if each.expires_at is None} == {
            "spiffe://example.org/x"
        }
        assert {each.entry_id for each in state.entries.entries} == {"kept", "back"}
        # A certificate that came after the copy renews as before, a revoked one does not.
        bundle = TrustBundle(trust_domain=CART.trust_domain, x509_authorities=keeper.roots)
        attest = SvidAttestor(lambda: bundle, books.store, books.registry, clock)
        assert attest(_shown(new)).holds == CART
        with pytest.raises(AttestationError, match="denied"):
            attest(_shown(bad))
        denied = SigningRequest(csr=make_csr(), spiffe_id=SpiffeId.parse("spiffe://example.org/x"))
        caller = Caller(method=Method.OPERATOR, granted=denied.spiffe_id)
        with pytest.raises(IssueRefusedError, match="is denied"):
            books.issuance.sign(denied, caller)
    with opened() as (_, books):
        assert (books.caught_up, list(books.troubles())) == ("", [])
    audit = tmp_path / "s/audit"
    lines = "".join(path.read_text() for path in audit.glob("*.jsonl"))
    assert lines.count("the ledger was older than the audit chain") == 1
    assert verify_folder(audit).intact


def _shown(svid) -> PeerChain:
    return PeerChain([each.public_bytes(serialization.Encoding.DER) for each in svid.chain])


def test_an_empty_ledger(opened, restored, tmp_path):
    """A ledger that is gone altogether is filled from the chain."""
    for path in (tmp_path / "s").glob("ledger.db*"):
        path.unlink()
    with opened() as (_, books):
        assert len(books.desk.find(LedgerFilter(kinds=("x509",)))) == 3
        assert len(books.registry.state.denied) == 3


ACTS = {
    "a denial": (
        lambda desk, clock: desk.revoke(DeniedKind.SPIFFE_ID, str(CART)),
        "1 denials and 0 removed",
    ),
    "a certificate's denial": (
        lambda desk, clock: desk.revoke(DeniedKind.SERIAL, desk.find(LedgerFilter())[0].serial),
        "1 denials and 0 removed",
    ),
    "a removal": (lambda desk, clock: desk.remove_entry("gone"), "0 denials and 1 removed"),
    "an entry": (
        lambda desk, clock: desk.add_entry(entry_of("new", clock)),
        "to be done again: entry `new`",
    ),
}


@pytest.mark.parametrize("name", ACTS)
def test_an_act_after_which_nothing_was_issued(opened, tmp_path, clock, name):
    """What was denied or removed last counts, though no issuance tells that the copy is older."""
    act, told = ACTS[name]
    backup = tmp_path / "backup"
    backup.mkdir()
    with opened() as (_, books):
        books.desk.add_entry(entry_of("gone", clock))
        _issue(books)
    _copy(tmp_path / "s", backup)
    with opened() as (_, books):
        act(books.desk, clock)
        denied, entries = dict(books.registry.state.denied), set(_entry_ids(books))
        revision = books.registry.state.revision
    # All of it is there: nothing is told, and nothing written.
    with opened() as (_, books):
        assert (books.caught_up, books.registry.state.revision) == ("", revision)
    _copy(backup, tmp_path / "s")
    with opened() as (_, books):
        assert told in books.caught_up
        assert set(books.registry.state.denied) == set(denied)
        assert set(_entry_ids(books)) == entries - {"new"}


def _entry_ids(books) -> list[str]:
    return [each.entry_id for each in books.registry.state.entries.entries]


def test_a_token_that_was_used_last(opened, tmp_path, clock):
    """A join token that was shown after the copy is not worth anything once more."""
    backup = tmp_path / "backup"
    backup.mkdir()
    with opened() as (_, books):
        token = books.desk.make_token(str(CART), timedelta(hours=1))
        _issue(books)
    _copy(tmp_path / "s", backup)
    with opened() as (_, books):
        caller = JoinTokenAttestor(books.store, clock)(JoinToken(token))
        with pytest.raises(IssueRefusedError):
            books.issuance.sign(SigningRequest(csr=b"nothing"), caller)
    _copy(backup, tmp_path / "s")
    with opened() as (_, books):
        assert "1 join tokens are used up" in books.caught_up
        with pytest.raises(AttestationError, match="used before"):
            JoinTokenAttestor(books.store, clock)(JoinToken(token))


def test_a_clock_that_runs_far_ahead(restored, tmp_path, clock):
    """Denials count again where the clock says that all of the chain was over long ago."""
    with closing(Store(f"sqlite:///{tmp_path}/s/ledger.db")) as store:
        found = catch_up(tmp_path / "s/audit", store, clock() + timedelta(days=9999))
        assert (found.rows, found.denials, found.removals) == (0, 3, 1)


def test_a_good_ledger_is_asked_once(opened, tmp_path, monkeypatch):
    """Where nothing is missing the chain is not read, whatever stands before its end."""
    with opened() as (_, books):
        for _ in range(3):
            _issue(books)

    def refuse(*_):
        raise AssertionError("the whole chain was read")

    monkeypatch.setattr("ca.ledger_check._brought_up", refuse)
    with opened() as (_, books):
        assert books.caught_up == ""
        assert catch_up(tmp_path / "s/audit", books.store) is None


def test_what_ended_long_ago_is_removed_and_stays_so(opened, tmp_path, clock, monkeypatch):
    """Rows go when their time to be kept is over, in batches, and the chain does not bring back."""
    monkeypatch.setattr("ca.books._BATCH", 2)
    with opened() as (_, books):
        ended = [_serial(_issue(books)) for _ in range(5)]
        clock.now += timedelta(days=31)
        kept = _serial(_issue(books))
        assert books.forget_ended(None) == 0
        assert books.forget_ended(clock() - timedelta(days=30)) == 5
        assert [row.serial for row in books.desk.find(LedgerFilter(kinds=("x509",)))] == [kept]
        assert len(books.desk.find(LedgerFilter(kinds=("authority",)))) == 1
        audit = tmp_path / "s/audit"
        assert catch_up(audit, books.store, clock() - timedelta(days=30)) is None
        # Who keeps for ever gets them back.
        assert catch_up(audit, books.store).rows == 5
    lines = "".join(path.read_text() for path in audit.glob("*.jsonl"))
    assert all(serial in lines for serial in ended)


def test_lines_that_were_changed_say_nothing(opened, tmp_path, clock):
    """A line that does not hold its own hash denies nobody and puts no row back."""
    with opened() as (_, books):
        svid = _issue(books)
        books.desk.revoke(DeniedKind.SPIFFE_ID, "spiffe://example.org/x")
    [path] = (tmp_path / "s/audit").glob("audit-*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    events = [json.loads(line).get("event") for line in lines]
    forged = lines[events.index("revoked")].replace("example.org/x", "example.org/y")
    lines[events.index("revoked")] = forged
    path.write_text("".join(lines))
    for each in (tmp_path / "s").glob("ledger.db*"):
        each.unlink()
    with opened() as (_, books):
        assert [row.serial for row in books.desk.find(LedgerFilter(kinds=("x509",)))] == [
            _serial(svid)
        ]
        assert books.registry.state.denied == {}
