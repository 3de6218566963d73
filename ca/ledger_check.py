"""A ledger that is older than its audit chain: found at the start, and brought up from the chain.

Theory of operation. A row is written before its line, so every issuance on the chain has a row;
where the last ones have none, the ledger was restored from an older copy, or is a new one. Then
certificates that were revoked since would be good again. So the whole chain is read once: rows that
are missing are put back (without the certificate itself, whose digest the chain has), denials and
removals of entries count again. What only gives, an entry or a lifted denial, is left to the
operator, who is told.

INVARIANT: a good ledger costs one read of the chain's end and one question.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select

from audit.chain import COMPRESSED, list_segments, parse_line, read_raw_lines
from audit.errors import DamagedLineError
from ca.entries import delete_entry
from ca.errors import StoreError
from ca.ledger import LedgerRow, insert_rows
from ca.revocations import DeniedKind, Revocation, RevocationReason, insert_revocation
from ca.store import Store
from ca.store_schema import ISSUANCE

_TAIL_BYTES: Final = 256 * 1024
_TAIL_SEGMENTS: Final = 2
_BATCH: Final = 500


@dataclass(slots=True)
class CaughtUp:
    """What a ledger lacked: rows put back, denials and removals that count again."""

    rows: int = 0
    denials: int = 0
    removals: int = 0

    def __str__(self) -> str:
        """Return it as one clause."""
        return (
            f"the ledger was older than the audit chain: {self.rows} issuances, {self.denials} "
            f"denials and {self.removals} removed entries were taken up again"
        )


@dataclass(slots=True)
class _Acts:
    """What the chain says of denials and entries, as of its end."""

    denied: dict[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    def take(self, document: Mapping[str, Any]) -> None:
        """Take in one line."""
        details = document["details"]
        match document["event"]:
            case "revoked":
                self.denied[details["kind"], details["value"]] = document
            case "revocation_lifted":
                self.denied.pop((details["kind"], details["value"]), None)
            case "entry_removed":
                self.removed.add(details["entry_id"])
            case "entry_added":
                self.removed.discard(details["entry_id"])


def catch_up(folder: Path, store: Store, kept_since: datetime | None = None) -> CaughtUp | None:
    """Return None where the ledger has what the chain in `folder` ends with; bring it up otherwise.

    What ended before `kept_since` need not be there.

    Raises:
        StoreError: chain or ledger cannot be read, or the ledger not be written.
    """
    try:
        with store.read() as connection:
            if not _missing(connection, _issued(_tail(folder), kept_since)):
                return None
        return _brought_up(folder, store, kept_since)
    except OSError as exc:
        raise StoreError(f"the audit log cannot be read: {exc.strerror}") from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise StoreError("the audit log holds a line that cannot be taken up again") from exc


def _brought_up(folder: Path, store: Store, kept_since: datetime | None) -> CaughtUp:
    """Read the whole chain into the ledger; return what was missing."""
    found, acts = CaughtUp(), _Acts()
    lines = (document for _, path in list_segments(folder) for document in _events(path))
    while batch := list(islice(lines, _BATCH)):
        for document in batch:
            acts.take(document)
        with store.write() as connection:
            missing = _missing(connection, _issued(batch, kept_since))
            insert_rows(connection, missing)
            found.rows += len(missing)
    with store.write() as connection:
        for document in acts.denied.values():
            found.denials += insert_revocation(connection, _revocation(connection, document))
        for entry_id in sorted(acts.removed):
            found.removals += delete_entry(connection, entry_id)
    return found


def _missing(connection: Connection, rows: Iterable[LedgerRow]) -> list[LedgerRow]:
    """Return those of `rows` that the ledger does not have."""
    by_serial = {row.serial: row for row in rows}
    column = ISSUANCE.c.serial
    known = set(connection.scalars(select(column).where(column.in_(by_serial))))
    return [row for serial, row in by_serial.items() if serial not in known]


def _issued(
    documents: Iterable[Mapping[str, Any]], kept_since: datetime | None
) -> Iterator[LedgerRow]:
    """Yield the rows of the issuances among lines, of those that are kept."""
    for document in documents:
        if document["event"] == "svid_issued":
            row = _row(document)
            if kept_since is None or row.not_after >= kept_since:
                yield row


def _row(document: Mapping[str, Any]) -> LedgerRow:
    """Return the row that a line tells of; of the certificate only its digest is known."""
    details = document["details"]
    return LedgerRow(
        **{
            name: str(details[name])
            for name in ("kind", "serial", "spiffe_id", "authority", "entry_id", "spki_sha256")
        },
        der_sha256=str(details["der_sha256"]),
        csr_sha256=str(details["csr_sha256"]),
        method=str(details["method"]),
        evidence=dict(details["evidence"]),
        der=b"",
        node=str(document["node"]),
        issued_at=_moment(document),
        not_before=datetime.fromtimestamp(details["not_before"], UTC),
        not_after=datetime.fromtimestamp(details["not_after"], UTC),
    )


def _revocation(connection: Connection, document: Mapping[str, Any]) -> Revocation:
    """Return the denial that a line tells of; a certificate's holds until its end."""
    details, columns = document["details"], ISSUANCE.c
    kind, value, expires_at = DeniedKind(details["kind"]), str(details["value"]), None
    if kind is DeniedKind.SERIAL:
        end = connection.scalar(select(columns.not_after).where(columns.serial == value))
        expires_at = None if end is None else datetime.fromtimestamp(end, UTC)
    return Revocation(
        kind=kind,
        value=value,
        revoked_at=_moment(document),
        reason=RevocationReason(details["reason"]),
        expires_at=expires_at,
    )


def _moment(document: Mapping[str, Any]) -> datetime:
    """Return when a line was written."""
    return datetime.fromisoformat(str(document["at"]))


def _events(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a segment; a line that does not hold its own hash says nothing."""
    return _parsed(read_raw_lines(path))


def _tail(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the events at the end of the chain, of the segments that are written or just were."""
    for _, path in list_segments(folder)[-_TAIL_SEGMENTS:]:
        if path.name.endswith(COMPRESSED):
            continue
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            # The first of them may be the end of a line, which does not hold its own hash.
            yield from _parsed(file.read().splitlines(keepends=True))


def _parsed(lines: Iterable[bytes]) -> Iterator[Mapping[str, Any]]:
    """Yield the events among lines."""
    for raw in lines:
        try:
            document = parse_line(raw).document
        except DamagedLineError:
            continue
        if document.get("kind") == "event":
            yield document
