"""The rows of issuance: what was signed, for whom, on whose word; written once, never changed."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, Final, TypeAlias

from sqlalchemy import Connection, Select, delete, select
from sqlalchemy.exc import IntegrityError

from ca.errors import DuplicateSerialError
from ca.store_schema import ISSUANCE

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_SERIAL_DIGITS: Final = 40
AUTHORITY_KIND: Final = "authority"
"""The kind of an intermediate's row."""
LedgerValues: TypeAlias = tuple[str | int | bytes, ...]
"""A row as the columns hold it, in their order."""
_COLUMNS: Final = tuple(column.name for column in ISSUANCE.columns)
DER_AT: Final = _COLUMNS.index("der")
"""Where the certificate stands in `LedgerValues`, its only bytes."""
# BUDGET: how many rows one statement writes; PostgreSQL takes 65,535 values, SQLite 32,766.
_MAX_ROWS: Final = 256
_TAKEN: Final = "the ledger holds this serial number already"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """One issuance. Digests are SHA-256 in hex; `csr_sha256` is empty where there was no CSR.

    `authority` is the key identifier of the authority that signed, in hex; `kind` is `x509` (the
    leaf's DER in `der`), `jwt` (`der` is empty, `serial` is the token's `jti`, and `authority` its
    `kid`) or `authority` (an intermediate, signed by one of our roots).
    """

    serial: str
    spiffe_id: str
    authority: str
    spki_sha256: str
    der_sha256: str
    der: bytes = field(repr=False)
    method: str
    node: str
    issued_at: datetime
    not_before: datetime
    not_after: datetime
    kind: str = "x509"
    entry_id: str = ""
    csr_sha256: str = ""
    evidence: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFilter:
    """Which rows are asked for; what is None or empty does not restrict.

    `is_in_force_at` keeps the certificates that count at that moment.
    """

    spiffe_id: str = ""
    serial: str = ""
    spki_sha256: str = ""
    issued_since: datetime | None = None
    issued_until: datetime | None = None
    is_in_force_at: datetime | None = None
    kinds: tuple[str, ...] = ()
    limit: int = 1000


def format_serial(serial: int) -> str:
    """Return a serial number as the ledger spells it: 40 lower-case hex digits.

    >>> format_serial(255)[-4:]
    '00ff'
    """
    return f"{serial:0{_SERIAL_DIGITS}x}"


def parse_serial(text: str) -> str:
    """Return a serial number as people write it (hex, with or without colons) in our spelling.

    >>> parse_serial("0x00:FF") == format_serial(255)
    True

    Raises:
        ValueError: it is not a hexadecimal number.
    """
    return format_serial(int(text.replace(":", ""), 16))


def insert_rows(connection: Connection, rows: Sequence[LedgerValues]) -> None:
    """Write rows within the caller's transaction.

    WHY one statement for many rows, in the database's own words: a driver lets go of the
    interpreter for each statement, and the thread that records waits to get it back each time.

    Raises:
        DuplicateSerialError: a serial number is taken; the transaction must be given up.
    """
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    try:
        for statement, values in _inserts(rows, mark):
            connection.exec_driver_sql(statement, values)
    except IntegrityError as exc:
        raise DuplicateSerialError(_TAKEN) from exc


def insert_rows_directly(driver: sqlite3.Connection, rows: Sequence[LedgerValues]) -> None:
    """Do as `insert_rows` does, by SQLite's own driver.

    Raises:
        DuplicateSerialError: as `insert_rows`.
    """
    try:
        for statement, values in _inserts(rows, "?"):
            driver.execute(statement, values)
    except sqlite3.IntegrityError as exc:
        raise DuplicateSerialError(_TAKEN) from exc


def _inserts(rows: Sequence[LedgerValues], mark: str) -> Iterator[tuple[str, LedgerValues]]:
    """Yield the statements that write `rows`, each with its values."""
    for start in range(0, len(rows), _MAX_ROWS):
        part = rows[start : start + _MAX_ROWS]
        yield _insert_statement(len(part), mark), tuple(chain.from_iterable(part))


@lru_cache(maxsize=2 * _MAX_ROWS)
def _insert_statement(rows: int, mark: str) -> str:
    """Return the statement that writes so many rows, `mark` standing for each value."""
    row = f"({', '.join(mark for _ in _COLUMNS)})"
    into = f"{ISSUANCE.name} ({', '.join(_COLUMNS)})"
    return f"INSERT INTO {into} VALUES {', '.join([row] * rows)}"  # noqa: S608 - names of our own


def delete_ended(connection: Connection, before: datetime, limit: int) -> int:
    """Remove up to `limit` rows of what ended before a moment, within the caller's transaction.

    Returns how many there were; intermediates stay.
    """
    columns = ISSUANCE.c
    # What ended before was issued before, which is what the index knows.
    ended = (
        select(columns.serial)
        .where(
            columns.issued_at < to_microseconds(before),
            columns.not_after < int(before.timestamp()),
            columns.kind != AUTHORITY_KIND,
        )
        .order_by(columns.issued_at)
        .limit(limit)
    )
    serials = list(connection.scalars(ended))
    connection.execute(delete(ISSUANCE).where(columns.serial.in_(serials)))
    return len(serials)


def find_rows(connection: Connection, wanted: LedgerFilter) -> tuple[LedgerRow, ...]:
    """Return the rows that fit, the newest first."""
    return tuple(_row(dict(found._mapping)) for found in connection.execute(_query(wanted)))


def _query(wanted: LedgerFilter) -> Select[Any]:
    """Return the statement of a filter."""
    columns = ISSUANCE.c
    query = select(ISSUANCE).order_by(columns.issued_at.desc()).limit(wanted.limit)
    for column, value in (
        (columns.spiffe_id, wanted.spiffe_id),
        (columns.serial, wanted.serial),
        (columns.spki_sha256, wanted.spki_sha256),
    ):
        if value:
            query = query.where(column == value)
    if wanted.kinds:
        query = query.where(columns.kind.in_(wanted.kinds))
    if wanted.issued_since is not None:
        query = query.where(columns.issued_at >= to_microseconds(wanted.issued_since))
    if wanted.issued_until is not None:
        query = query.where(columns.issued_at < to_microseconds(wanted.issued_until))
    if wanted.is_in_force_at is not None:
        at = int(wanted.is_in_force_at.timestamp())
        query = query.where(columns.not_before <= at, columns.not_after >= at)
    return query


def to_microseconds(at: datetime) -> int:
    """Return a moment as whole microseconds since the epoch."""
    return (at - _EPOCH) // _MICROSECOND


def from_microseconds(value: int) -> datetime:
    """Return the moment of whole microseconds since the epoch."""
    return _EPOCH + value * _MICROSECOND


def row_to_values(row: LedgerRow) -> LedgerValues:
    """Return a row as the columns hold it, in their order."""
    return (
        row.serial,
        row.kind,
        row.spiffe_id,
        row.authority,
        row.entry_id,
        row.spki_sha256,
        row.der_sha256,
        row.der,
        row.csr_sha256,
        row.method,
        json.dumps(dict(row.evidence), sort_keys=True),
        row.node,
        to_microseconds(row.issued_at),
        int(row.not_before.timestamp()),
        int(row.not_after.timestamp()),
    )


def _row(values: Mapping[str, Any]) -> LedgerRow:
    """Return what the columns hold as a row."""
    return LedgerRow(
        **{
            **values,
            "evidence": json.loads(values["evidence"]),
            "issued_at": from_microseconds(values["issued_at"]),
            "not_before": datetime.fromtimestamp(values["not_before"], UTC),
            "not_after": datetime.fromtimestamp(values["not_after"], UTC),
        }
    )
