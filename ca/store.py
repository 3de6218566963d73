"""The ledger's database: SQLite beside the keys, or PostgreSQL where replicas share it.

Theory of operation. Everything that must hold together is written in one transaction, and a
transaction is either durable or did not happen: SQLite runs in WAL mode and syncs at every commit,
PostgreSQL is asked for `synchronous_commit`. What the audit chain holds as well, issuances, SQLite
need not sync: a process that is killed loses nothing of it, and a loss of power only the last
commits, never one that was synced or came before one that was. Writers of SQLite take its one write
lock at the beginning (`BEGIN IMMEDIATE`), so that no transaction has to be given up half-way. A
database that cannot be reached is an error of that moment: the next transaction tries anew, no
restart is needed.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ca.clock import Clock, utc_now
from ca.errors import StoreError
from ca.store_schema import COUNTER, MIGRATIONS, SCHEMA_VERSION, Migration

# BUDGET: how long a writer waits for another one, and a connection for the server, before it is
# an error: longer than any transaction here, shorter than a caller's patience.
_WAIT_SECONDS = 5
# A transaction of SQLite takes about a millisecond.
_NAP_SECONDS = 0.0003
# BUDGET: pages of 4 KiB in SQLite's log before a commit brings them into the database itself;
# `ca.checkpoints` does so before, beside the commits.
_LONGEST_LOG = 16_000
_POOL_SIZE = 4
# Any number will do, as long as nothing else in the database takes it.
_ROTATION_LOCK = 0x6D657368
_MIGRATION_LOCK = 0x6D657369
_COUNTER_VALUE = select(COUNTER.c.value).where(COUNTER.c.name == bindparam("counter"))


class Store:
    """The open ledger. Any thread may use it; `close` it when done."""

    def __init__(
        self, url: str, *, migrations: Sequence[Migration] = MIGRATIONS, clock: Clock = utc_now
    ) -> None:
        """Open the database behind `url` and bring its tables up to date.

        `url` is `sqlite:///relative/path`, `sqlite:////absolute/path` or `postgresql://…`.

        Raises:
            StoreError: it cannot be opened, or was written by a newer version.
        """
        self._engine = _engine_of(url)
        self._unsynced: sqlite3.Connection | None = None
        try:
            with self.write() as connection:
                _migrate(connection, migrations, clock)
        except StoreError:
            self._engine.dispose()
            raise

    @property
    def is_shared(self) -> bool:
        """Whether several machines may write this ledger."""
        return self._engine.dialect.name == "postgresql"

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Run the block in one transaction, durable when the block has ended.

        Raises:
            StoreError: nothing of the block may be relied on, though it may have happened when
                the connection was lost in the very commit.
        """
        with _wrapped(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write_redoable(self) -> Iterator[sqlite3.Connection]:
        """Run the block in one transaction that is not synced when the block has ended.

        For a ledger that is not shared, for what the audit chain can give again, and for one
        thread; by SQLite's own driver. WHY: the library's share of a transaction (events, results,
        the pool's books) took two thirds of what a group of four issuances cost.

        Raises:
            StoreError: as `write`.
        """
        try:
            driver = self._unsynced_driver()
            _take_lock_in_turn(driver)
            try:
                yield driver
            except BaseException:
                # A disk that is full has ended the transaction already; that is what to tell.
                if driver.in_transaction:
                    driver.execute("ROLLBACK")
                raise
            driver.execute("COMMIT")
        except sqlite3.Error as exc:
            # A connection that met an error is not used again.
            self._close_unsynced()
            raise _unusable(exc) from exc

    def _unsynced_driver(self) -> sqlite3.Connection:
        """Return the driver's connection of `write_redoable`."""
        if self._unsynced is None:
            with _wrapped():
                pooled = self._engine.raw_connection()
            driver = cast(sqlite3.Connection, pooled.driver_connection)
            pooled.detach()
            # https://www.sqlite.org/pragma.html#pragma_synchronous: "WAL mode is always consistent
            # with synchronous=NORMAL, but WAL mode does lose durability." The log is still synced
            # before it is brought into the database, and by the next commit of `write`.
            driver.execute("PRAGMA synchronous=NORMAL")
            driver.execute("PRAGMA busy_timeout=0")
            self._unsynced = driver
        return self._unsynced

    def _close_unsynced(self) -> None:
        """Close the connection of `write_redoable`, where there is one."""
        driver, self._unsynced = self._unsynced, None
        if driver is not None:
            driver.close()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Run the block's statements, each on what is committed at that moment.

        Raises:
            StoreError: the database did not answer.
        """
        with _wrapped(), self._engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def rotation_turn(self) -> Iterator[None]:
        """Hold the lock of key rotation while the block runs, waiting a few seconds for it.

        On PostgreSQL it is an advisory lock of one session: it falls when the holder dies. A
        SQLite ledger has one holder of its state folder, and so needs none.

        Raises:
            StoreError: another replica holds it for longer, or the database does not answer.
        """
        if not self.is_shared:
            yield
            return
        with self.read() as connection:
            connection.execute(text(f"SET lock_timeout = '{_WAIT_SECONDS}s'"))
            connection.execute(select(func.pg_advisory_lock(_ROTATION_LOCK)))
            try:
                yield
            finally:
                connection.execute(select(func.pg_advisory_unlock(_ROTATION_LOCK)))

    def check(self) -> None:
        """Return when the database answers.

        Raises:
            StoreError: it does not.
        """
        with self.read() as connection:
            connection.execute(select(COUNTER.c.value).limit(1))

    def checkpoint(self, *, is_restart: bool = False) -> int:
        """Bring SQLite's log into the database while others commit; return how many pages it had.

        With `is_restart` writers wait until all of it is in, so that it begins anew.

        Raises:
            StoreError: the ledger cannot be written.
        """
        mode = "RESTART" if is_restart else "PASSIVE"
        with self.read() as connection:
            [_, pages, _] = connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()
        return int(pages)

    def close(self) -> None:
        """Close every connection; one that is lent just then is closed when it comes back."""
        event.listen(self._engine, "checkin", _close_what_comes_back)
        self._close_unsynced()
        self._engine.dispose()


def _close_what_comes_back(driver: Any, record: Any) -> None:
    if driver is not None:
        record.invalidate()


def bump(connection: Connection, counter: str) -> int:
    """Add one to a counter, within the caller's transaction, and return its new value."""
    connection.execute(
        update(COUNTER).where(COUNTER.c.name == counter).values(value=COUNTER.c.value + 1)
    )
    return counter_value(connection, counter)


def raise_to(connection: Connection, counter: str, value: int) -> None:
    """Let a counter that is below a value have it, within the caller's transaction."""
    is_below = (COUNTER.c.name == counter, COUNTER.c.value < value)
    connection.execute(update(COUNTER).where(*is_below).values(value=value))


def touch(connection: Connection, counter: str) -> None:
    """Write a counter's own value over it, within the caller's transaction: can it be written?"""
    connection.execute(
        update(COUNTER).where(COUNTER.c.name == counter).values(value=COUNTER.c.value)
    )


def counter_value(connection: Connection, counter: str) -> int:
    """Return the value of a counter."""
    value = connection.scalar(_COUNTER_VALUE, {"counter": counter})
    if value is None:
        raise StoreError(f"the ledger has no counter `{counter}`")
    return int(value)


def counter_value_directly(driver: sqlite3.Connection, counter: str) -> int:
    """Do as `counter_value` does, by SQLite's own driver."""
    found = driver.execute("SELECT value FROM counter WHERE name = ?", (counter,)).fetchone()
    if found is None:
        raise StoreError(f"the ledger has no counter `{counter}`")
    return int(found[0])


@contextmanager
def _wrapped() -> Iterator[None]:
    """Turn the database's errors into ours.

    WHY only the driver's own words, cut to one line: SQLAlchemy's text quotes the statement with
    its values, and a driver's may go on to name what it was told.
    """
    try:
        yield
    except DBAPIError as exc:
        raise _unusable(exc.orig) from exc
    except PoolTimeoutError as exc:
        raise StoreError("the ledger cannot be used: every connection is busy") from exc
    except SQLAlchemyError as exc:
        raise StoreError(f"the ledger cannot be used: {type(exc).__name__}") from exc


def _unusable(said: BaseException | None) -> StoreError:
    """Return the error of what a driver said, cut to one line."""
    words = str(said).strip().splitlines() or [type(said).__name__]
    return StoreError(f"the ledger cannot be used: {words[0][:200]}")


def _engine_of(url: str) -> Engine:
    """Return the engine of a database URL; nothing is opened yet."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql":
            return _postgresql(parsed.set(drivername="postgresql+psycopg"))
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(parsed)
    except ModuleNotFoundError as exc:
        raise StoreError(
            f"the database driver `{exc.name}` is not installed",
            help="install meshwarden with its extra `postgresql`",
        ) from exc
    except (ArgumentError, NoSuchModuleError) as exc:
        # WHY no text of the URL: it may hold a password.
        raise StoreError("the ledger's URL cannot be read") from exc
    raise StoreError("the ledger's URL names neither sqlite nor postgresql")


def _sqlite(url: Any) -> Engine:
    """Return the engine of a SQLite file: WAL, synced at every commit, written by one at a time."""
    engine = create_engine(
        url, connect_args={"timeout": _WAIT_SECONDS}, pool_size=_POOL_SIZE, pool_timeout=30
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # WHY None: else the driver itself decides when a transaction begins.
        connection.isolation_level = None
        # WAL first: where another process is just turning it on, the file is locked for a moment.
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            # What a statement of many rows would be taken back by: in memory, not in a file.
            "temp_store=MEMORY",
            f"wal_autocheckpoint={_LONGEST_LOG}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            _begin_in_turn(connection)

    return engine


def _begin_in_turn(connection: Connection) -> None:
    """Begin a transaction of SQLite, where the library would.

    Raises:
        StoreError: it cannot be begun.
    """
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute("PRAGMA busy_timeout=0")
        try:
            _take_lock_in_turn(driver)
        finally:
            driver.execute(f"PRAGMA busy_timeout={_WAIT_SECONDS * 1000}")
    except sqlite3.Error as exc:
        raise _unusable(exc) from exc


def _take_lock_in_turn(driver: sqlite3.Connection) -> None:
    """Take SQLite's write lock, waiting for the process that has it; `driver` itself waits not.

    WHY not by SQLite's own waiting: it sleeps longer and longer, up to 100 ms at a time, while a
    writer that comes fresh finds the lock free; of two that share a ledger one would starve.
    Nothing can be waited for, since SQLite tells nobody that a lock is free.

    Raises:
        sqlite3.Error: it is not free in time, or the file cannot be used.
    """
    end = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < end:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as exc:
            # The upper bits say more: another process brings the log back after a crash, say.
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                break
        time.sleep(_NAP_SECONDS)
    driver.execute("BEGIN IMMEDIATE")


def _postgresql(url: Any) -> Engine:
    """Return the engine of a PostgreSQL database that may go away and come back."""
    engine = create_engine(
        url,
        pool_pre_ping=True,
        pool_size=_POOL_SIZE,
        pool_timeout=_WAIT_SECONDS,
        connect_args={
            "connect_timeout": _WAIT_SECONDS,
            # A server that went away without a word is noticed by its silence.
            "keepalives_idle": _WAIT_SECONDS,
            "tcp_user_timeout": _WAIT_SECONDS * 1000,
            "application_name": "meshwarden-ca",
        },
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET synchronous_commit = on")
            cursor.execute(f"SET lock_timeout = '{_WAIT_SECONDS}s'")
            cursor.execute(f"SET statement_timeout = '{2 * _WAIT_SECONDS}s'")
        connection.commit()

    return engine


def _migrate(connection: Connection, migrations: Sequence[Migration], clock: Clock) -> None:
    """Apply the migrations that are missing; one process does it, the others wait."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    version = _version(connection)
    if version > len(migrations):
        raise StoreError(
            f"the ledger has version {version}, this program knows up to {len(migrations)}",
            help="run the newer program, or restore the ledger from before its migration",
        )
    for number, migration in enumerate(migrations[version:], version + 1):
        migration(connection)
        row = {"version": number, "applied_at": int(clock().timestamp())}
        connection.execute(insert(SCHEMA_VERSION).values(row))


def _version(connection: Connection) -> int:
    """Return the version of the tables, 0 for a database without them."""
    if not inspect(connection).has_table(SCHEMA_VERSION.name):
        return 0
    return int(connection.scalar(select(func.max(SCHEMA_VERSION.c.version))) or 0)
