"""A loss of power takes rows that were not synced: each is put back whole from the audit chain."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from issuing import entry_of, make_csr, settings_in
from sqlalchemy import text

from audit.record import AuditEvent, EventName
from audit.segments import SegmentFolder
from audit.verify import verify_folder
from ca.audit_chain import AuditChain
from ca.books import Books, open_books
from ca.caller import Caller, Method
from ca.chain_end import events_after, events_from_end
from ca.errors import AttestationError, StoreError
from ca.issuance_line import issuance_event, issuance_row
from ca.issued import SigningRequest
from ca.join_tokens import JoinToken, JoinTokenAttestor
from ca.ledger import LedgerFilter, LedgerRow, row_to_values
from ca.revocations import DeniedKind
from ca.store import Store
from identity.spiffe_id import SpiffeId

CART = SpiffeId.parse("spiffe://example.org/ns/shop/sa/cart")
OPERATOR = Caller(method=Method.OPERATOR, granted=CART)
LEDGER = ("ledger.db", "ledger.db-wal")


@pytest.fixture
def opened(keeper_of, tmp_path, clock, monkeypatch):
    """Open a state anew: `with opened("folder") as books`; its log is brought in by nobody."""
    monkeypatch.setattr("ca.checkpoints._EVERY_SECONDS", 3600)

    @contextmanager
    def _opened(name: str = "s") -> Iterator[Books]:
        settings = settings_in(tmp_path, name)
        with keeper_of(tmp_path / name) as keeper, open_books(settings, keeper, clock) as books:
            yield books

    return _opened


def _issue(books: Books, clock) -> None:
    clock.now += timedelta(milliseconds=7)
    books.issuance.sign(SigningRequest(csr=make_csr(), spiffe_id=CART), OPERATOR)


def _rows(books: Books) -> dict[str, LedgerRow]:
    return {row.serial: row for row in books.desk.find(LedgerFilter(limit=10**6))}


def _tables(books: Books) -> dict[str, list[tuple[object, ...]]]:
    """Return all that the ledger holds beside issuances and their counters."""
    with books.store.read() as connection:
        return {
            name: sorted(tuple(row) for row in connection.execute(text(f"SELECT * FROM {name}")))
            for name in ("entry", "join_token", "revocation")
        }


def _without_power(folder: Path, to: Path, log_bytes: int | None) -> None:
    """Copy a state as a loss of power leaves it: of the ledger's log only so many bytes."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*-shm", "*-wal", "*lock*"))
    if log_bytes is not None:
        (to / LEDGER[1]).write_bytes((folder / LEDGER[1]).read_bytes()[:log_bytes])


def _log_size(folder: Path) -> int:
    return (folder / LEDGER[1]).stat().st_size


@pytest.fixture
def state(opened, tmp_path, clock):
    """A CA at work: acts, a used token, then issuances that nobody synced; and what it holds."""
    folder = tmp_path / "s"
    with opened() as books:
        for number in range(4):
            _issue(books, clock)
            books.desk.add_entry(entry_of(f"entry-{number}", clock))
        token = books.desk.make_token(str(CART), timedelta(hours=1))
        attest = JoinTokenAttestor(books.store, clock)
        books.issuance.sign(SigningRequest(csr=make_csr()), attest(JoinToken(token)))
        books.desk.remove_entry("entry-0")
        books.desk.revoke(DeniedKind.SERIAL, next(iter(_rows(books))))
        synced = _log_size(folder)
        for _ in range(30):
            _issue(books, clock)
        held, tables, full = _rows(books), _tables(books), _log_size(folder)
        assert full > synced
        # As it lies on the disk while the process lives.
        for cut in (synced, full):
            _without_power(folder, tmp_path / f"cut-{cut}", cut)
    return folder, synced, full, held, tables, token


def _cuts(synced: int, full: int) -> list[int]:
    chance = random.Random(35)
    return [synced, full - 1, full, *(chance.randrange(synced, full) for _ in range(5))]


@pytest.mark.failure("ca-power")
def test_rows_that_were_not_synced_come_back_whole(opened, state, tmp_path, clock):
    """Wherever the log was cut after what was synced, the ledger is afterwards as it was."""
    _, synced, full, held, tables, _ = state
    for number, cut in enumerate(_cuts(synced, full)):
        name = f"lost-{number}"
        _without_power(tmp_path / f"cut-{full}", tmp_path / name, None)
        log = (tmp_path / f"cut-{full}" / LEDGER[1]).read_bytes()
        (tmp_path / name / LEDGER[1]).write_bytes(log[:cut])
        with opened(name) as books:
            assert _rows(books) == held
            assert _tables(books) == tables
            # Nothing that an operator has to look after.
            assert (books.caught_up, list(books.troubles())) == ("", [])
            _issue(books, clock)
            assert len(_rows(books)) == len(held) + 1
        with opened(name) as books:
            assert len(_rows(books)) == len(held) + 1
        audit = tmp_path / name / "audit"
        assert verify_folder(audit).intact
        said = "".join(path.read_text() for path in audit.glob("*.jsonl")).count("not synced yet")
        assert said == (cut < full)


def test_an_older_copy_is_told_from_a_loss_of_power(opened, state, tmp_path, clock):
    """A log cut before what was synced is an older ledger: said, and nothing is good again."""
    folder, synced, full, held, tables, token = state
    chance = random.Random(36)
    for number, cut in enumerate([0, *(chance.randrange(synced * 3 // 4) for _ in range(4))]):
        name = f"older-{number}"
        _without_power(tmp_path / f"cut-{full}", tmp_path / name, None)
        log = (tmp_path / f"cut-{full}" / LEDGER[1]).read_bytes()
        (tmp_path / name / LEDGER[1]).write_bytes(log[:cut])
        with opened(name) as books:
            assert {serial: row for serial, row in _rows(books).items() if row.kind == "x509"} == {
                serial: row for serial, row in held.items() if row.kind == "x509"
            }
            assert [each.code for each in books.troubles()] == ["ledger_restored"]
            assert "1 denials" in books.caught_up
            [revoked] = _tables(books)["revocation"]
            assert revoked[1] == tables["revocation"][0][1]
            assert "entry-0" not in {row[0] for row in _tables(books)["entry"]}
            with pytest.raises(AttestationError):
                JoinTokenAttestor(books.store, clock)(JoinToken(token))
            there = {row[0] for row in _tables(books)["entry"]}
            for gone in {f"entry-{n}" for n in (1, 2, 3)} - there:
                assert f"entry `{gone}`" in books.caught_up


def test_a_used_token_of_an_older_copy_stays_used(opened, tmp_path, clock):
    """A join token that a copy holds as unused is used up by the line that tells of its use."""
    with opened() as books:
        tokens = [books.desk.make_token(str(CART), timedelta(hours=1)) for _ in range(3)]
    shutil.copy(tmp_path / "s" / LEDGER[0], tmp_path / "copy.db")
    with opened() as books:
        attest = JoinTokenAttestor(books.store, clock)
        books.issuance.sign(SigningRequest(csr=make_csr()), attest(JoinToken(tokens[0])))
        # Refused, and used up all the same.
        with pytest.raises(Exception, match="may not hold"):
            books.issuance.sign(
                SigningRequest(csr=make_csr("spiffe://example.org/other")),
                attest(JoinToken(tokens[1])),
            )
        _issue(books, clock)
    for name in (*LEDGER, "ledger.db-shm"):
        (tmp_path / "s" / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "copy.db", tmp_path / "s" / LEDGER[0])
    with opened() as books:
        assert "2 join tokens are used up" in books.caught_up
        attest = JoinTokenAttestor(books.store, clock)
        for used in tokens[:2]:
            with pytest.raises(AttestationError, match="used before"):
                attest(JoinToken(used))
        assert attest(JoinToken(tokens[2])).method is Method.JOIN_TOKEN


def test_rows_over_more_than_a_minute_are_an_older_copy(opened, tmp_path, clock):
    """What no loss of power takes is told, even where nothing but issuances is missing."""
    with opened() as books:
        _issue(books, clock)
    shutil.copy(tmp_path / "s" / LEDGER[0], tmp_path / "copy.db")
    with opened() as books:
        for _ in range(3):
            _issue(books, clock)
            clock.now += timedelta(seconds=40)
        held = _rows(books)
    shutil.copy(tmp_path / "copy.db", tmp_path / "s" / LEDGER[0])
    with opened() as books:
        assert _rows(books) == held
        assert "older than the audit chain: 3 issuances" in books.caught_up


def test_rows_that_lack_before_others_are_put_back(opened, clock, tmp_path):
    """A row that somebody took out from between is missed too, and the whole chain is read."""
    with opened() as books:
        for _ in range(6):
            _issue(books, clock)
        held = _rows(books)
        gone = sorted(held, key=lambda serial: held[serial].issued_at)[3]
        with books.store.write() as connection:
            connection.execute(text("DELETE FROM issuance WHERE serial = :gone"), {"gone": gone})
    with opened() as books:
        assert _rows(books) == held
        assert "older than the audit chain: 1 issuances" in books.caught_up


def test_brought_up_whole_or_not_at_all(opened, tmp_path, clock, monkeypatch):
    """A start that ends half-way leaves the ledger as it was, so the next one does all of it."""
    with opened() as books:
        pass
    shutil.copy(tmp_path / "s" / LEDGER[0], tmp_path / "copy.db")
    with opened() as books:
        for _ in range(7):
            _issue(books, clock)
        books.desk.revoke(DeniedKind.SPIFFE_ID, "spiffe://example.org/x")
        held, tables = _rows(books), _tables(books)
    shutil.copy(tmp_path / "copy.db", tmp_path / "s" / LEDGER[0])
    monkeypatch.setattr("ca.ledger_check._BATCH", 3)
    with monkeypatch.context() as patched:

        def fail(*_):
            raise StoreError("the disk is full")

        patched.setattr("ca.ledger_check._Acts.apply", fail)
        with pytest.raises(StoreError, match="full"), opened() as books:
            pass
    with opened() as books:
        assert _rows(books) == held
        assert [row[:2] for row in _tables(books)["revocation"]] == [
            row[:2] for row in tables["revocation"]
        ]
        assert "7 issuances, 1 denials" in books.caught_up


def test_what_the_chain_cannot_give_again_is_synced(opened, clock, monkeypatch):
    """Only issuances are committed without a sync; an authority's row and an act never are."""
    modes: list[int] = []
    plain = Store.write_redoable

    @contextmanager
    def watched(store: Store):
        with plain(store) as driver:
            modes.append(driver.execute("PRAGMA synchronous").fetchone()[0])
            yield driver

    monkeypatch.setattr(Store, "write_redoable", watched)
    with opened() as books:
        # The intermediate is on record by now.
        assert len(_rows(books)) == 1
        books.desk.add_entry(entry_of("one", clock))
        books.desk.make_token(str(CART), timedelta(hours=1))
        assert modes == []
        with books.store.write() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        _issue(books, clock)
        assert modes == [1]


def test_a_ledger_that_cannot_be_synced_is_told(opened, monkeypatch):
    """Commits that nobody syncs would look well: `status` says so until the log is brought in."""
    with opened() as books:
        assert list(books.troubles()) == []
    monkeypatch.setattr("ca.checkpoints._EVERY_SECONDS", 0.01)
    is_broken, plain, asked = [True], Store.checkpoint, threading.Semaphore(0)

    def checkpoint(store: Store, *, is_restart: bool = False) -> int:
        asked.release()
        if is_broken[0]:
            raise StoreError("the ledger cannot be used: disk I/O error")
        return plain(store, is_restart=is_restart)

    monkeypatch.setattr(Store, "checkpoint", checkpoint)
    with opened() as books:
        for _ in range(2):
            assert asked.acquire(timeout=10)
        [trouble] = books.troubles()
        assert (trouble.code, trouble.is_failing) == ("records", False)
        assert "disk I/O" in trouble.message
        is_broken[0] = False
        while asked.acquire(blocking=False):
            pass
        for _ in range(3):
            assert asked.acquire(timeout=10)
        assert list(books.troubles()) == []


TEXT = st.text(max_size=20)
ROWS = st.builds(
    LedgerRow,
    serial=TEXT,
    spiffe_id=TEXT,
    authority=TEXT,
    spki_sha256=TEXT,
    der_sha256=TEXT,
    der=st.binary(max_size=50),
    method=TEXT,
    node=TEXT,
    issued_at=st.datetimes(
        min_value=datetime(2000, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)
    ),
    not_before=st.integers(0, 2**32).map(lambda at: datetime.fromtimestamp(at, UTC)),
    not_after=st.integers(0, 2**32).map(lambda at: datetime.fromtimestamp(at, UTC)),
    kind=st.sampled_from(["x509", "jwt"]),
    entry_id=TEXT,
    csr_sha256=TEXT,
    evidence=st.dictionaries(TEXT, TEXT, max_size=3),
)


@given(row=ROWS, more=st.dictionaries(st.just("audiences"), st.lists(TEXT, max_size=2)))
def test_a_line_gives_its_row_again(tmp_path_factory, row, more):
    """Whatever a row holds, the line that is made of it gives the same row, to the microsecond."""
    folder = tmp_path_factory.mktemp("chain")
    event = AuditEvent(event=EventName.SVID_ISSUED, at=row.issued_at.timestamp(), details=more)
    with _chain(folder, row.node) as chain:
        chain.append([issuance_event(event, row_to_values(row))])
    [(_, found)] = events_from_end(folder, (b'"svid_issued"',))
    assert issuance_row(found) == row
    assert found["details"].items() >= more.items()


@contextmanager
def _chain(folder: Path, node: str):
    chain = AuditChain(folder, node=node, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    try:
        yield chain
    finally:
        chain.close()


@pytest.mark.parametrize("block", [1, 7, 100, 1000, 10**6])
def test_lines_from_the_end(tmp_path, monkeypatch, block):
    """In whatever pieces a chain is read back, whole lines come, each once, the newest first."""
    monkeypatch.setattr("ca.chain_end._BLOCK_BYTES", block)
    log = SegmentFolder(
        tmp_path, max_bytes=1500, node="one", clock=lambda: 1.0, new_id=lambda: "log"
    )
    for number in range(40):
        event = "svid_issued" if number % 3 else "start"
        log.append([{"kind": "event", "event": event, "text": f"{number}" * 9}], sync=False)
    log.close()
    paths = sorted(tmp_path.glob("audit-*.jsonl"))
    assert len(paths) > 3
    Path(f"{paths[1]}.gz").write_bytes(gzip.compress(paths[1].read_bytes()))
    paths[1].unlink()
    # A line that was changed, one that was cut off, and bytes that are no line.
    whole = paths[2].read_bytes().splitlines(keepends=True)
    paths[2].write_bytes(whole[0] + whole[1].replace(b"svid", b"SVID") + b"\r\xff\n")
    with paths[-1].open("ab") as file:
        file.write(whole[1][:50])
    found = list(events_from_end(tmp_path, (b'"svid_issued"',)))
    lines = [(n, json.loads(raw)) for n, raw in _lines(tmp_path) if b'"svid_issued"' in raw]
    assert found == list(reversed(lines))
    number, middle = found[len(found) // 2]
    after = list(events_after(tmp_path, number, middle["seq"]))
    assert [each for each in after if each["event"] == "svid_issued"] == [
        each for _, each in reversed(found[: len(found) // 2])
    ]


def _lines(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every whole line of a folder with its segment's number."""
    for path in sorted(folder.glob("audit-*")):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        for raw in data.split(b"\n"):
            if raw.startswith(b"{") and raw.endswith(b"}"):
                yield int(path.name[6:14]), raw
