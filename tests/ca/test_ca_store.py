"""The ledger when its disk or database fails: nothing is issued, nothing is lost, it comes back."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from issuing import CART, CART_CALLER, make_csr, open_ca, request_of
from postgresql_server import postgresql_server
from sqlalchemy import text

from ca.caller import Caller, Method
from ca.errors import AuthorityExpiredError, DuplicateSerialError, StoreError
from ca.issue import SvidRequest, issue_x509_svid
from ca.issued import SigningRequest
from ca.ledger import format_serial
from ca.store import Store, bump, counter_value, counter_value_directly
from ca.store_schema import MIGRATIONS, REGISTRY_REVISION
from identity.spiffe_id import SpiffeId


@pytest.fixture(scope="module")
def server():
    """One PostgreSQL server for this file."""
    with postgresql_server() as running:
        yield running


@pytest.fixture
def emptied(server):
    """That server with an empty database."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return server


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)],
)
def url(request, tmp_path):
    """An empty ledger of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    yield request.getfixturevalue("emptied").url


@pytest.fixture
def ca(authority, clock, tmp_path, url):
    """An issuing CA with one entry."""
    with open_ca(tmp_path, authority, clock, url=url) as opened:
        opened.add()
        yield opened


def test_a_row_says_everything_and_comes_back(ca, clock):
    """What the ledger holds of an issuance is what was issued, on both databases."""
    issued = ca.issuance.sign(request_of(CART), CART_CALLER)
    clock.now += timedelta(seconds=1)
    later = ca.issuance.sign(request_of(CART, lifetime=timedelta(minutes=5)), CART_CALLER)

    newest, row = ca.rows()

    assert (newest.serial, row.serial) == (later.serial, issued.serial)
    assert x509.load_der_x509_certificate(row.der) == issued.chain[0]
    assert row.evidence == {"subject": "system:serviceaccount:shop:cart"}
    assert row.not_after == issued.chain[0].not_valid_after_utc
    assert ca.rows(issued_since=clock()) == (newest,)
    assert ca.rows(serial=row.serial) == (row,)
    assert ca.rows(spiffe_id="spiffe://example.org/other") == ()
    assert ca.rows(is_in_force_at=clock() + timedelta(minutes=30)) == (row,)
    [first, _] = ca.events("svid_issued")
    assert (first["serial"], first["der_sha256"]) == (row.serial, row.der_sha256)


def test_a_serial_number_is_never_taken_twice(ca, authority, clock, tmp_path, url):
    """A second certificate of one serial number does not leave; those beside it do."""
    serials = iter([77, 78, 77, 79])
    object.__setattr__(ca.issuance._parts, "new_serial", lambda: next(serials))
    assert ca.issuance.sign(request_of(CART), CART_CALLER).serial == format_serial(77)
    # Three at once, so that they share a transaction.
    begun = [ca.issuance.begin(request_of(CART), CART_CALLER) for _ in range(3)]
    errors = [type(each.exception()) for each in begun]
    assert sorted(map(str, errors)) == sorted(
        map(str, [type(None), DuplicateSerialError, type(None)])
    )
    assert [row.serial for row in ca.rows()].count(format_serial(77)) == 1
    assert len(ca.rows()) == 3


def test_many_threads_share_groups(ca):
    """Hundreds of requests from several threads are all recorded, each once."""
    csrs = [SigningRequest(csr=make_csr(CART)) for _ in range(10)]
    issued: list[str] = []

    def ask() -> None:
        issued.extend(ca.issuance.sign(csr, CART_CALLER).serial for csr in csrs)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(issued)) == 80
    assert {row.serial for row in ca.rows()} == set(issued)
    assert {event["serial"] for event in ca.events("svid_issued")} == set(issued)
    assert ca.verified().intact


def test_who_was_answered_together_is_written_together(ca, monkeypatch):
    """After a group of two the next waits for a second one; closing waits for nobody."""
    ask = partial(ca.issuance.begin, SigningRequest(csr=make_csr(CART)), CART_CALLER)
    monkeypatch.setattr("ca.recorder._GATHER_SECONDS", 3600)
    with ca.recorder._wake:
        # Until the lock is given back nothing is taken, so these two are a group.
        before = [ask(), ask()]
    assert [each.exception(30) for each in before] == [None, None]
    first = ask()
    with pytest.raises(TimeoutError):
        first.result(0.05)
    assert [each.exception(30) for each in (first, ask())] == [None, None]
    last = ask()
    ca.recorder.close()
    assert last.done()
    assert len(ca.rows()) == 5


def test_two_processes_take_turns_at_one_file(tmp_path):
    """Of two ledgers over one SQLite file neither starves, and no transaction is lost."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    stores = [Store(url), Store(url)]

    def count_up(store: Store) -> None:
        for _ in range(100):
            with store.write() as connection:
                bump(connection, REGISTRY_REVISION)

    with ThreadPoolExecutor() as threads:
        list(threads.map(count_up, stores))
    with stores[0].read() as connection:
        assert counter_value(connection, REGISTRY_REVISION) == 200
    for store in stores:
        store.close()


def test_a_connection_that_was_lent_when_the_ledger_closed_is_closed_too(url):
    """Whoever reads at that moment reads to the end, and leaves nothing open."""
    store = Store(url)
    with store.read() as connection:
        driver = connection.connection.driver_connection
        store.close()
        assert counter_value(connection, REGISTRY_REVISION) == 0

    with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError), match="closed"):
        driver.execute("SELECT 1")


def test_a_lock_that_is_never_given_back_is_an_error_of_the_ledger(tmp_path, monkeypatch):
    """Who waits too long for the other's transaction is told, and can write once it is over."""
    monkeypatch.setattr("ca.store._WAIT_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    holder, other = Store(url), Store(url)
    with holder.write(), pytest.raises(StoreError, match="locked"), other.write():
        pass
    with other.write() as connection:
        assert bump(connection, REGISTRY_REVISION) == 1
    for store in (holder, other):
        store.close()


def test_a_transaction_of_the_driver_is_whole_or_is_not(tmp_path):
    """What fails within it leaves nothing and no lock; what ends well is there for everybody."""
    store = Store(f"sqlite:///{tmp_path / 'ledger.db'}")
    statement = "UPDATE counter SET value = value + 1 WHERE name = ?"
    with store.read() as connection:
        before = counter_value(connection, REGISTRY_REVISION)
    with pytest.raises(ZeroDivisionError), store.write_redoable() as driver:
        driver.execute(statement, (REGISTRY_REVISION,))
        raise ZeroDivisionError
    with pytest.raises(StoreError, match="no such table"), store.write_redoable() as driver:
        driver.execute(statement, (REGISTRY_REVISION,))
        driver.execute("DELETE FROM absent")
    with store.write_redoable() as driver:
        driver.execute(statement, (REGISTRY_REVISION,))
        assert counter_value_directly(driver, REGISTRY_REVISION) == before + 1
        with pytest.raises(StoreError, match="no counter"):
            counter_value_directly(driver, "another")
    with store.write() as connection:
        assert counter_value(connection, REGISTRY_REVISION) == before + 1
    store.close()


def test_a_caller_that_goes_away_harms_nobody(ca):
    """Requests that are given up while they are recorded are recorded, and so are those beside."""

    async def ask() -> list[object]:
        asked = [
            asyncio.ensure_future(ca.issuance.sign_async(request_of(CART), CART_CALLER))
            for _ in range(12)
        ]
        await asyncio.sleep(0)
        for each in asked[::2]:
            each.cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(ask())
    assert [isinstance(each, asyncio.CancelledError) for each in outcomes] == [True, False] * 6
    held = {each.serial for each in outcomes[1::2]}
    assert held <= {row.serial for row in ca.rows()}
    assert ca.recorder.health() is None


def test_two_replicas_see_each_others_changes(ca, authority, clock, tmp_path, url):
    """An entry added by one replica counts for the other, without a restart."""
    with open_ca(tmp_path, authority, clock, url=url, node="two") as other:
        other.add("spiffe://example.org/late", "unix:uid:7")
        assert ca.registry.refresh_if_changed()
        assert not ca.registry.refresh_if_changed()
        entries = [entry.spiffe_id for entry in ca.registry.state.entries.entries]
    assert entries == [CART, "spiffe://example.org/late"]


def test_migrations_are_applied_once_and_a_newer_ledger_is_refused(url):
    """Each migration runs in order and once; an older program does not touch a newer ledger."""

    def add_column(connection) -> None:
        connection.execute(text("ALTER TABLE entry ADD COLUMN note TEXT DEFAULT ''"))

    newest = len(MIGRATIONS)
    Store(url).close()
    for _ in range(2):
        store = Store(url, migrations=(*MIGRATIONS, add_column))
        with store.read() as connection:
            assert connection.execute(text("SELECT note FROM entry")).all() == []
            versions = connection.execute(text("SELECT version FROM schema_version")).scalars()
            assert list(versions) == [*range(1, newest + 2)]
        store.close()
    words = f"has version {newest + 1}, this program knows up to {newest}"
    with pytest.raises(StoreError, match=words):
        Store(url)


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(url):
    """A migration is one transaction: its first half does not stay behind."""

    def half(connection) -> None:
        connection.execute(text("CREATE TABLE half (a INTEGER)"))
        connection.execute(text("SELECT nonsense FROM nowhere"))

    Store(url).close()
    with pytest.raises(StoreError, match="cannot be used"):
        Store(url, migrations=(*MIGRATIONS, half))
    store = Store(url)
    with pytest.raises(StoreError), store.read() as connection:
        connection.execute(text("SELECT a FROM half"))
    store.close()


@pytest.mark.parametrize(
    "bad", ["mysql://a/b", "nonsense", "sqlite:////nonexistent/folder/x.db", "postgresql+x://a"]
)
def test_a_ledger_that_cannot_be_is_refused_without_its_url(bad):
    """What is wrong with the URL is said, what stands in it is not."""
    with pytest.raises(StoreError) as caught:
        Store(bad)
    assert bad not in str(caught.value)


def _refused(ca, spiffe_id: str = CART) -> str:
    with pytest.raises(StoreError) as caught:
        ca.issuance.sign(request_of(spiffe_id), CART_CALLER)
    return str(caught.value)


@contextmanager
def _small_disk(folder: Path, size: str):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(folder: Path) -> Path:
    """Take the last byte of a disk; return the file that holds them."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            return path


def test_a_full_disk_stops_issuance_and_loses_nothing(authority, clock, tmp_path):
    """With the disk full nothing is issued; with room again it is, and every line is there."""
    disk = tmp_path / "disk"
    with _small_disk(disk, "4m"), open_ca(disk, authority, clock) as ca:
        ca.add()
        before = ca.issuance.sign(request_of(CART), CART_CALLER)
        filler = _fill(disk)

        words = _refused(ca)
        assert "cannot be" in words
        assert ca.recorder.health() is not None

        filler.unlink()
        ca.recorder.probe()
        assert ca.recorder.health() is None
        after = ca.issuance.sign(request_of(CART), CART_CALLER)
        assert ca.recorder.health() is None
        chained = {event["serial"] for event in ca.events("svid_issued")}
        assert {before.serial, after.serial} == chained
        assert chained <= {row.serial for row in ca.rows()}
        assert ca.verified().intact


def test_a_disk_that_turns_read_only_stops_issuance(authority, clock, tmp_path):
    """A disk that the kernel remounts read-only refuses issuance until it is writable again."""
    disk = tmp_path / "disk"
    with _small_disk(disk, "8m"), open_ca(disk, authority, clock) as ca:
        ca.add()
        before = ca.issuance.sign(request_of(CART), CART_CALLER)
        # The open files keep the kernel from remounting it; a bind mount over it does the same to
        # every name, and the ledger opens its files by name again.
        ca.store._engine.dispose()
        ca.recorder._chain._segments._close_segment()
        for options in ("bind", "remount,ro,bind"):
            subprocess.run(["mount", "-o", options, str(disk), str(disk)], check=True)
        try:
            assert "cannot be" in _refused(ca)
        finally:
            ca.store._engine.dispose()
            subprocess.run(["umount", "-l", str(disk)], check=True)
        after = ca.issuance.sign(request_of(CART), CART_CALLER)
        assert {before.serial, after.serial} <= {row.serial for row in ca.rows()}
        assert ca.verified().intact


def test_an_audit_folder_that_goes_away_stops_issuance(authority, clock, tmp_path):
    """Without its audit chain nothing leaves, though the ledger would take it."""
    with open_ca(tmp_path, authority, clock) as ca:
        ca.add()
        ca.issuance.sign(request_of(CART), CART_CALLER)
        away = tmp_path / "away"
        ca.audit.rename(away)
        assert "audit log" in _refused(ca)
        assert "audit log" in (ca.recorder.health() or "")
        # What the server makes for configured workloads does not even try.
        granted = Caller(method=Method.SOCKET, granted=SpiffeId.parse(CART))
        request = SvidRequest(spiffe_id=SpiffeId.parse(CART), lifetime=timedelta(hours=1))
        svid = issue_x509_svid(request, authority, now=clock())
        with pytest.raises(StoreError, match="audit log"):
            ca.issuance.record_svid(svid, granted)
        away.rename(ca.audit)
        ca.recorder.probe()
        assert ca.recorder.health() is None
        issued = ca.issuance.sign(request_of(CART), CART_CALLER)
        assert issued.serial in {event["serial"] for event in ca.events("svid_issued")}
        assert ca.verified().intact


def test_an_expired_intermediate_signs_nothing_and_that_is_on_record(ca, authority, clock):
    """Near its end the signer is not used any more; the refusal is named and recorded."""
    clock.now = authority.intermediate.not_valid_after_utc - timedelta(seconds=10)
    with pytest.raises(AuthorityExpiredError):
        ca.issuance.sign(request_of(CART), CART_CALLER)
    assert ca.rows() == ()
    assert [event["reason"] for event in ca.events("svid_refused")] == ["authority_unavailable"]


@pytest.mark.postgresql
def test_a_lost_database_stops_issuance_until_it_is_back(authority, clock, tmp_path, emptied):
    """A database that crashes is an error of that moment: no restart of the CA, no row lost."""
    with open_ca(tmp_path, authority, clock, url=emptied.url, node="lost") as ca:
        ca.add("spiffe://example.org/lost", "k8s:ns:shop", entry_id="lost")
        request = request_of("spiffe://example.org/lost")
        before = ca.issuance.sign(request, CART_CALLER)
        emptied.stop()
        try:
            assert "ledger" in _refused(ca, "spiffe://example.org/lost")
            ca.recorder.probe()
            assert "ledger" in (ca.recorder.health() or "")
        finally:
            emptied.start()
        ca.recorder.probe()
        assert ca.recorder.health() is None
        after = ca.issuance.sign(request, CART_CALLER)
        held = {before.serial, after.serial}
        assert held <= {row.serial for row in ca.rows(spiffe_id="spiffe://example.org/lost")}
        assert held == {event["serial"] for event in ca.events("svid_issued")}
        refused = [event["reason"] for event in ca.events("svid_refused")]
        assert "record_unavailable" in refused


@pytest.mark.postgresql
def test_the_rotation_turn_is_one_replicas_at_a_time(emptied, monkeypatch):
    """Two replicas cannot rotate at once, and a replica that dies lets its turn go."""
    monkeypatch.setattr("ca.store._WAIT_SECONDS", 1)
    one, two = Store(emptied.url), Store(emptied.url)
    with one.rotation_turn(), pytest.raises(StoreError), two.rotation_turn():
        pass
    dead = two.rotation_turn()
    dead.__enter__()
    # As when it dies, its connections end without a word.
    pids = "SELECT pid FROM pg_locks WHERE locktype = 'advisory'"
    with one.read() as connection:
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM ({pids}) AS held"))
    with one.rotation_turn():
        pass
    with suppress(StoreError):
        dead.__exit__(None, None, None)
    one.close()
    two.close()
