"""A ledger that is behind its audit chain: found at the start, and brought up from the chain.

Theory of operation. Every issuance on the chain had a row before its line. Where the last ones have
none, a loss of power took what SQLite had not synced yet, or the ledger was restored from an older
copy, or is a new one. Then certificates that were revoked since would be good again, and serial
numbers free. Rows are lost from the end only, in all three cases: what was committed before a row
that is there, is there. So the chain is read back to the newest issuance whose row is there, and
from it on once more: rows are put back, denials, removals of entries and used join tokens count
again, in one transaction. What only gives, an entry or a lifted denial, is left to the operator,
who is told; a loss of power does not take it, for it was synced.

An older copy may lack acts and no issuance, where none came after it. So what the chain's end says
of acts, after that row, is held against the ledger too. Where replicas share the ledger another
one, with a chain of its own, may have lifted or added since: an act that the ledger has counted
(`ca.acts`) was there and counts no more, one beyond its count is missing. Lines of before acts had
numbers prove that only where nothing can be undone (a certificate's denial, a token's use), or
where an issuance is missing too.

The same is looked for when a ledger that was away is back, for it may be another one then.

INVARIANT: a good ledger costs one read of the chain's end, two questions, and one for each act of
before acts had numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, select

from audit.record import EventName
from ca.acts import ACT, count_up_to, counted_acts
from ca.caller import Method
from ca.chain_end import Event, events_after, events_from_end
from ca.entries import delete_entry, missing_entries
from ca.errors import StoreError
from ca.issuance_line import issuance_row
from ca.join_tokens import use_up_tokens
from ca.ledger import LedgerRow, insert_rows, row_to_values
from ca.revocations import DeniedKind, Revocation, RevocationReason, insert_revocation, is_denied
from ca.store import Store
from ca.store_schema import ISSUANCE

# BUDGET: issuances that every start looks at, some milliseconds; rows of one question.
_BATCH: Final = 200
_SHOWN: Final = 20
_ISSUED: Final = EventName.SVID_ISSUED.value
# BUDGET: what may be lost with the power; SQLite's log is synced once a second
# (`ca.checkpoints`), later only on a disk that hardly answers.
_UNSYNCED: Final = timedelta(seconds=60)
_ACTS: Final = tuple(
    f'"{name.value}"'.encode()
    for name in (
        *(EventName.REVOKED, EventName.REVOCATION_LIFTED),
        *(EventName.ENTRY_ADDED, EventName.ENTRY_REMOVED),
        *(EventName.SVID_REFUSED, EventName.SVID_ISSUED),
    )
)


@dataclass(slots=True)
class CaughtUp:
    """What a ledger lacked: rows put back, denials, removals and used tokens that count again.

    `has_gap` says that rows lacked before others that were there; `not_taken_up` names what the
    operator has to do again.
    """

    rows: int = 0
    denials: int = 0
    removals: int = 0
    tokens: int = 0
    has_gap: bool = False
    not_taken_up: list[str] = field(default_factory=list)
    _first: datetime | None = field(default=None, init=False)
    _last: datetime | None = field(default=None, init=False)

    def take(self, rows: Sequence[LedgerRow]) -> None:
        """Note rows that were put back.

        WHY not the first's and the last's moment: a clock may have been set back between them.
        """
        for row in rows:
            self._first = min(self._first or row.issued_at, row.issued_at)
            self._last = max(self._last or row.issued_at, row.issued_at)
        self.rows += len(rows)

    @property
    def span(self) -> timedelta:
        """The time over which the rows came."""
        return self._last - self._first if self._first and self._last else timedelta(0)

    @property
    def lacked_acts(self) -> bool:
        """Whether anything but issuances was missing."""
        return bool(self.denials or self.removals or self.tokens or self.not_taken_up)

    @property
    def is_older_copy(self) -> bool:
        """Whether the ledger lacked more than a loss of power can take."""
        return self.has_gap or self.lacked_acts or self.span > _UNSYNCED

    def __str__(self) -> str:
        """Return it as one clause."""
        if not self.is_older_copy:
            seconds = self.span.total_seconds()
            return (
                f"the ledger lacked {self.rows} issuances of its last {seconds:.1f} s, which were "
                "not synced yet: they were put back from the audit chain"
            )
        text = (
            f"the ledger was older than the audit chain: {self.rows} issuances, {self.denials} "
            f"denials and {self.removals} removed entries were taken up again, {self.tokens} "
            "join tokens are used up"
        )
        if self.not_taken_up:
            text += f"; to be done again: {', '.join(self.not_taken_up[:_SHOWN])}"
        return text


@dataclass(slots=True)
class _Acts:
    """What the chain says of denials, entries and join tokens, as of its end, and the ledger lacks.

    `counted` is how many acts of each node the ledger has counted.
    """

    counted: Mapping[str, int]
    numbers: dict[str, int] = field(default_factory=dict)
    denied: dict[tuple[str, str], Event] = field(default_factory=dict)
    lifted: set[tuple[str, str]] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    added: set[str] = field(default_factory=set)
    used_tokens: dict[str, datetime] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Take in one line."""
        details = event["details"]
        if number := details.get(ACT, 0):
            node = event["node"]
            if number <= self.counted.get(node, 0):
                return
            self.numbers[node] = max(number, self.numbers.get(node, 0))
        match event["event"]:
            case "revoked":
                self.denied[details["kind"], details["value"]] = event
                self.lifted.discard((details["kind"], details["value"]))
            case "revocation_lifted":
                self.denied.pop((details["kind"], details["value"]), None)
                self.lifted.add((details["kind"], details["value"]))
            case "entry_removed":
                self.removed.add(details["entry_id"])
                self.added.discard(details["entry_id"])
            case "entry_added":
                self.removed.discard(details["entry_id"])
                self.added.add(details["entry_id"])
            case "svid_issued" | "svid_refused" if details.get("method") == Method.JOIN_TOKEN:
                # A token that was shown is used up, whatever came of the request.
                if token := details.get("evidence", {}).get("token_sha256"):
                    self.used_tokens.setdefault(str(token), _moment(event))

    @property
    def is_empty(self) -> bool:
        """Whether the ledger has what the chain says, as far as its counts tell."""
        return not (self.denied or self.lifted or self.removed or self.added or self.used_tokens)

    def apply(self, connection: Connection, found: CaughtUp) -> None:
        """Let what restricts count in the ledger; note what was new to it, and what it lacks."""
        for (kind, value), event in self.denied.items():
            if not is_denied(connection, DeniedKind(kind), value):
                found.denials += insert_revocation(connection, _revocation(connection, event))
        missing = missing_entries(connection, self.removed)
        for entry_id in sorted(self.removed.difference(missing)):
            found.removals += delete_entry(connection, entry_id)
        found.tokens = use_up_tokens(connection, self.used_tokens)
        missing = missing_entries(connection, self.added)
        found.not_taken_up += [f"entry `{entry_id}`" for entry_id in missing]
        for kind, value in sorted(self.lifted):
            if is_denied(connection, DeniedKind(kind), value):
                found.not_taken_up.append(f"lifted denial of `{value}`")
        for node, number in self.numbers.items():
            count_up_to(connection, node, number)


def catch_up(folder: Path, store: Store, kept_since: datetime | None = None) -> CaughtUp | None:
    """Return None where the ledger has what the chain in `folder` ends with; bring it up otherwise.

    What ended before `kept_since` need not be there.

    Raises:
        StoreError: chain or ledger cannot be read, or the ledger not be written.
    """
    try:
        begin = _find_begin(folder, store, kept_since)
        if begin.is_behind:
            return _brought_up(folder, store, kept_since, begin)
        return _acts_brought_up(folder, store, begin)
    except OSError as exc:
        raise StoreError(f"the audit log cannot be read: {exc.strerror}") from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise StoreError("the audit log holds a line that cannot be taken up again") from exc


@dataclass(frozen=True, slots=True)
class _Begin:
    """The line after which rows may lack, the chain's beginning without one."""

    segment: int = 0
    seq: int = 0
    is_behind: bool = False
    has_gap: bool = False


def _find_begin(folder: Path, store: Store, kept_since: datetime | None) -> _Begin:
    """Return the line of the newest issuance whose row the ledger has, and whether a later lacks.

    The chain's beginning where no row is there at all, or one lacks before others that are there:
    those were not lost from the end.
    """
    is_behind = False
    issued = _issued_from_end(folder)
    with store.read() as connection:
        while batch := list(islice(issued, _BATCH)):
            held = _held(connection, [row.serial for _, row in batch])
            newest: _Begin | None = None
            for begin, row in batch:
                if row.serial in held:
                    newest = newest or begin
                elif _is_kept(row, kept_since):
                    if newest is not None:
                        return _Begin(is_behind=True, has_gap=True)
                    is_behind = True
            if newest is not None:
                return replace(newest, is_behind=is_behind)
    return _Begin(is_behind=is_behind)


def _issued_from_end(folder: Path) -> Iterator[tuple[_Begin, LedgerRow]]:
    """Yield the chain's issuances, the newest first.

    WHY with no moment at which to stop: what a line says of time is a clock's word, which may have
    been wrong; a row that the ledger has is what ends the search.
    """
    for segment, event in events_from_end(folder, (f'"{_ISSUED}"'.encode(),)):
        if event["event"] == _ISSUED:
            yield _Begin(segment, event["seq"]), issuance_row(event)


def _acts_brought_up(folder: Path, store: Store, begin: _Begin) -> CaughtUp | None:
    """Let what the chain says of acts after `begin` count in the ledger; None where it does."""
    events: list[Event] = []
    for segment, event in events_from_end(folder, _ACTS):
        if (segment, event["seq"]) <= (begin.segment, begin.seq):
            break
        if not store.is_shared or _is_proof(event):
            events.append(event)
    if not events:
        return None
    with store.read() as connection:
        acts = _Acts(counted_acts(connection))
    for event in reversed(events):
        acts.take(event)
    if acts.is_empty:
        return None
    found = CaughtUp()
    with store.write() as connection:
        acts.apply(connection, found)
    return found if found.lacked_acts else None


def _is_proof(event: Event) -> bool:
    """Return whether what a line says holds for certain, whatever other replicas did since."""
    details = event["details"]
    # RFC 5280 §5.3.1: a revoked certificate stays revoked; nor is a token ever unused again.
    is_final = details.get("kind") == DeniedKind.SERIAL or "token_sha256" in details.get(
        "evidence", {}
    )
    return ACT in details or is_final


def _brought_up(folder: Path, store: Store, kept_since: datetime | None, begin: _Begin) -> CaughtUp:
    """Read the chain after `begin` into the ledger, whole or not at all; return what lacked."""
    found = CaughtUp(has_gap=begin.has_gap)
    events = events_after(folder, begin.segment, begin.seq)
    with store.write() as connection:
        acts = _Acts(counted_acts(connection))
        while batch := list(islice(events, _BATCH)):
            for event in batch:
                acts.take(event)
            rows = (issuance_row(event) for event in batch if event["event"] == _ISSUED)
            missing = _missing(connection, [row for row in rows if _is_kept(row, kept_since)])
            insert_rows(connection, [row_to_values(row) for row in missing])
            found.take(missing)
        acts.apply(connection, found)
    return found


def _is_kept(row: LedgerRow, kept_since: datetime | None) -> bool:
    """Return whether a row has to be in the ledger."""
    return kept_since is None or row.not_after >= kept_since


def _missing(connection: Connection, rows: Iterable[LedgerRow]) -> list[LedgerRow]:
    """Return those of `rows` that the ledger does not have."""
    by_serial = {row.serial: row for row in rows}
    held = _held(connection, by_serial)
    return [row for serial, row in by_serial.items() if serial not in held]


def _held(connection: Connection, serials: Iterable[str]) -> set[str]:
    """Return those of some serial numbers that the ledger has."""
    column = ISSUANCE.c.serial
    return set(connection.scalars(select(column).where(column.in_(list(serials)))))


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
