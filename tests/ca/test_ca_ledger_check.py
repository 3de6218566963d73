"""A ledger restored from an older copy: what was revoked since stays revoked, nothing is lost."""

from __future__ import annotations

import json
import shutil
from contextlib import closing, contextmanager
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from issuing import entry_of, make_csr, settings_in
from postgresql_server import postgresql_server
from sqlalchemy import delete, insert, select

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
from ca.store_schema import (
    COUNTER,
    CRL_NUMBER,
    ENTRY,
    ISSUANCE,
    JOIN_TOKEN,
    REGISTRY_REVISION,
    REVOCATION,
)
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
        lambda desk, clock: desk.revoke(
            DeniedKind.SERIAL, desk.find(LedgerFilter(kinds=("x509",)))[0].serial
        ),
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


class Shared:
    """A ledger that two replicas share, each with a chain of its own."""

    def __init__(self, url, keeper_of, folder, clock) -> None:
        self.url, self._keeper_of, self._folder, self._clock = url, keeper_of, folder, clock

    @contextmanager
    def opened(self, node):
        """Open the books of a replica."""
        settings = settings_in(self._folder, node)
        records = settings.records.model_copy(update={"ledger_url": self.url, "node_name": node})
        settings = settings.model_copy(update={"records": records})
        with (
            self._keeper_of(self._folder / node) as keeper,
            open_books(settings, keeper, self._clock) as books,
        ):
            yield books

    def tables(self):
        """Return all that the ledger holds, as a backup does."""
        with closing(Store(self.url)) as store, store.read() as connection:
            return {
                table.name: [dict(row._mapping) for row in connection.execute(select(table))]
                for table in _ALL
            }

    def restore(self, tables) -> None:
        """Put a backup in the place of what the ledger holds, under whoever has it open."""
        with closing(Store(self.url)) as store, store.write() as connection:
            for table in _ALL:
                connection.execute(delete(table))
                if tables[table.name]:
                    connection.execute(insert(table), tables[table.name])


_ALL = (COUNTER, ISSUANCE, ENTRY, JOIN_TOKEN, REVOCATION)


@pytest.fixture(scope="module")
def server_url():
    """A PostgreSQL server for all of these tests."""
    with postgresql_server() as server:
        yield server.url


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.postgresql)])
def shared(request, keeper_of, tmp_path, clock, monkeypatch):
    """An empty ledger that replicas share."""
    if request.param == "sqlite":
        # What tells the two apart here is this word alone.
        monkeypatch.setattr("ca.store.Store.is_shared", True)
        return Shared(f"sqlite:///{tmp_path}/shared.db", keeper_of, tmp_path, clock)
    found = Shared(request.getfixturevalue("server_url"), keeper_of, tmp_path, clock)
    counters = [{"name": name, "value": 0} for name in (REGISTRY_REVISION, CRL_NUMBER)]
    found.restore(dict.fromkeys((table.name for table in _ALL), ()) | {COUNTER.name: counters})
    return found


@pytest.mark.parametrize("name", ACTS)
def test_a_shared_ledger_that_lacks_the_last_act(shared, clock, name):
    """A denial or removal after which nothing was issued counts again, for all who share it."""
    act, told = ACTS[name]
    with shared.opened("one") as books:
        books.desk.add_entry(entry_of("gone", clock))
        _issue(books)
        backup = shared.tables()
        act(books.desk, clock)
        books.registry.refresh()
        denied, entries = dict(books.registry.state.denied), set(_entry_ids(books))
    with shared.opened("one") as books:
        assert books.caught_up == ""
    shared.restore(backup)
    with shared.opened("one") as books, shared.opened("two") as other:
        assert told in books.caught_up
        for each in (books, other):
            assert set(each.registry.state.denied) == set(denied)
            assert set(_entry_ids(each)) == entries - {"new"}
        # The next act is known by its number again.
        backup = shared.tables()
        books.desk.revoke(DeniedKind.SPIFFE_ID, "spiffe://example.org/next")
    shared.restore(backup)
    with shared.opened("one") as books:
        assert "1 denials and 0 removed" in books.caught_up


def test_what_another_replica_undid_stays_undone(shared, clock):
    """A denial that the other one lifted, an entry that it added again: the ledger is not older."""
    with shared.opened("one") as one, shared.opened("two") as two:
        one.desk.add_entry(entry_of("back", clock))
        _issue(one)
        one.desk.revoke(DeniedKind.SPIFFE_ID, str(CART))
        one.desk.remove_entry("back")
        two.desk.lift(DeniedKind.SPIFFE_ID, str(CART))
        two.desk.add_entry(entry_of("back", clock))
    for node in ("one", "two", "one"):
        with shared.opened(node) as books:
            assert books.caught_up == ""
            assert books.registry.state.denied == {}
            assert _entry_ids(books) == ["back"]


def test_other_acts_do_not_hide_that_one_is_missing(shared, clock):
    """However much another replica did to the older ledger, this one's denial is missed."""
    with shared.opened("one") as one:
        _issue(one)
        backup = shared.tables()
        one.desk.revoke(DeniedKind.SPIFFE_ID, str(CART))
    shared.restore(backup)
    with shared.opened("two") as two:
        for number in range(5):
            two.desk.add_entry(entry_of(f"entry-{number}", clock))
        assert two.caught_up == ""
    with shared.opened("one") as one:
        assert "1 denials and 0 removed" in one.caught_up
        assert [value for _, value in one.registry.state.denied] == [str(CART)]


def test_a_ledger_that_is_restored_under_a_running_ca(shared, tmp_path, clock):
    """What was denied since the copy counts again within a look, before anything is published."""
    with shared.opened("one") as books:
        svid = _issue(books)
        books.refresh()
        backup = shared.tables()
        books.desk.revoke(DeniedKind.SPIFFE_ID, str(CART))
        lost = _issue_other(books)
        books.refresh()
        assert books.caught_up == ""
        published = []
        books.listeners.append(lambda: published.append(len(books.registry.state.denied)))
        shared.restore(backup)
        books.refresh()
        assert "1 issuances, 1 denials and 0 removed" in books.caught_up
        assert set(published) == {1}
        assert books.registry.state.denial_of(CART, svid.leaf, clock()) is not None
        serials = {row.serial for row in books.desk.find(LedgerFilter(kinds=("x509",)))}
        assert serials == {_serial(svid), _serial(lost)}
        said = len(published)
        books.refresh()
        assert len(published) == said
    assert verify_folder(tmp_path / "one/audit").intact


def test_lines_of_before_acts_had_numbers(shared, clock, monkeypatch):
    """They prove what nobody can undo; what another replica may have undone they do not."""
    with monkeypatch.context() as patched:
        patched.setattr("ca.desk.ACT", "was")
        with shared.opened("one") as books:
            svid = _issue(books)
            backup = shared.tables()
            books.desk.revoke(DeniedKind.SPIFFE_ID, str(CART))
            books.desk.revoke(DeniedKind.SERIAL, _serial(svid))
    shared.restore(backup)
    with shared.opened("one") as books:
        assert "1 denials and 0 removed" in books.caught_up
        assert [value for _, value in books.registry.state.denied] == [_serial(svid)]


def _issue_other(books) -> X509Svid:
    other = SpiffeId.parse("spiffe://example.org/ns/shop/sa/other")
    return books.issuance.issue(other, Caller(method=Method.OPERATOR, granted=other))


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
