"""Group commit: what is issued is durable in ledger and audit chain before its caller learns of it.

Theory of operation. Callers hand over a row and an event and get a future. One thread takes all
that waits, writes the rows in one transaction, then the events in one append, then resolves the
futures; meanwhile the next group gathers. A group costs as much as five certificates do, whatever
its size, and who was answered together comes back together: after a group of several the next
waits until it is as large, or half a millisecond. The ledger comes first: it refuses a serial
number that is taken, and a row whose certificate never left harms nobody. While either cannot be
written, nothing is issued; each group tries anew, so no restart is needed.

Only the chain is synced for each group: an issuance's line holds all of its row, and a row that a
loss of power took from a SQLite ledger is put back from it at the next start (`ca.ledger_check`).

INVARIANT: a future that is resolved without an error stands for a row in the ledger, which every
process sees, and a line on the disk.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from audit.record import AuditEvent, EventName
from ca.audit_chain import AuditChain
from ca.errors import CaError, DuplicateSerialError, StoreError
from ca.issuance_line import issuance_event
from ca.ledger import LedgerValues, insert_rows, insert_rows_directly
from ca.promise import Promise
from ca.store import Store, counter_value, counter_value_directly, touch
from ca.store_schema import REGISTRY_REVISION

_log = structlog.get_logger(__name__)
# BUDGET: a group this size takes some ten milliseconds, which is what the last in it waits.
_MAX_GROUP = 256
# BUDGET: how much later an answer comes at a busy time, at most; who asks alone never waits. With
# two milliseconds two workers with 8 requests in flight made a sixth less: the cores stood idle.
_GATHER_SECONDS = 0.0005
# BUDGET: beyond this the disk cannot keep up; callers are told at once and come back later.
_MAX_WAITING = 4096


class StaleRegistryError(CaError):
    """Entries or denials changed since the request was checked; it must be checked anew."""

    code = "ca.stale_registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What is to be durable: an event, and for an issuance its row and the registry's revision.

    An issuance's event says only what its row does not.
    """

    event: AuditEvent
    row: LedgerValues | None = None
    revision: int | None = None
    done: Future[None] = field(default_factory=Promise)

    def is_redoable(self) -> bool:
        """Return whether the line holds all of the row, should the ledger lose it."""
        return self.event.event is EventName.SVID_ISSUED

    def line(self) -> AuditEvent:
        """Return the event as the chain is to hold it."""
        if self.row is None or not self.is_redoable():
            return self.event
        return issuance_event(self.event, self.row)


class Records(Protocol):
    """What issuance needs of whoever records."""

    def record(self, recording: Recording) -> Future[None]:
        """Return the future of `recording`, which has no error once it is durable.

        Raises:
            StoreError: it cannot be recorded.
        """

    def health(self) -> str | None:
        """Return why the ledger or the chain could not be written last time, or None."""


class Recorder:
    """The thread that writes; `close` it when done.

    `after_group` are called in that thread whenever the futures of a group are resolved.
    """

    def __init__(self, store: Store, chain: AuditChain) -> None:
        """Start the thread; `chain` is the recorder's from now on."""
        self.after_group: tuple[Callable[[], None], ...] = ()
        self._store = store
        self._chain = chain
        self._waiting: deque[Recording] = deque()
        self._wake = threading.Condition()
        self._is_closing = False
        # How many must wait before the thread is woken.
        self._enough = 1
        self._ledger_fault: str | None = None
        self._chain_fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="ca-recorder", daemon=True)
        self._thread.start()

    def record(self, recording: Recording) -> Future[None]:
        """Return the future of `recording`: no error once it is durable.

        The future ends with StaleRegistryError (nothing is written), DuplicateSerialError (of the
        row, nothing is written) or StoreError (it must be taken for not written).

        Raises:
            StoreError: too many wait already, or the recorder is closed.
        """
        self.record_together((recording,))
        return recording.done

    def record_together(self, recordings: Sequence[Recording]) -> None:
        """Do as `record` does for each of them, all or none.

        Raises:
            StoreError: as `record`; nothing became of any of them.
        """
        with self._wake:
            if self._is_closing:
                raise StoreError("the recorder is closed")
            if len(self._waiting) + len(recordings) > _MAX_WAITING:
                raise StoreError(f"{_MAX_WAITING} issuances wait for the disk already")
            for recording in recordings:
                # A caller that goes away must not take back what is being written for its group.
                recording.done.set_running_or_notify_cancel()
            self._waiting += recordings
            if len(self._waiting) >= self._enough:
                self._wake.notify()

    def health(self) -> str | None:
        """Return why the ledger or the chain could not be written last time, or None."""
        return self._ledger_fault or self._chain_fault

    def probe(self, *, is_suspect: bool = False) -> None:
        """Find out whether what could not be written last time can be now; blocks, never raises.

        So `health` does not depend on somebody asking for a certificate. `is_suspect`: the
        ledger could not be read, so it has to take a write before it counts as whole.
        """
        if self._ledger_fault is not None or is_suspect:
            try:
                with self._store.write() as connection:
                    touch(connection, REGISTRY_REVISION)
                self._ledger_fault = None
            except StoreError as exc:
                self._ledger_fault = str(exc)
        if self._chain_fault is not None:
            details: dict[str, object] = {"of": "ca", "cause": self._chain_fault}
            event = self._chain.event(EventName.RESUME, details)
            with suppress(StoreError):
                self.record(Recording(event=event)).result()

    def close(self) -> None:
        """Write what waits, end the chain with `stop`, and end the thread. Twice is once."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        """Write groups until closed and drained; the thread's top."""
        last = 1
        while group := self._take(last):
            last = len(group)
            try:
                self._write(group)
            except Exception as exc:
                # The thread must outlive whatever a group brings up, or every caller would hang;
                # none of its futures is resolved as written.
                _log.exception("recording_failed")
                self._ledger_fault = f"the recorder failed: {type(exc).__name__}"
                _fail(group, StoreError(self._ledger_fault))
            self._tell_listeners()
        self._chain.close()

    def _tell_listeners(self) -> None:
        """Say that a group is through."""
        for listener in self.after_group:
            try:
                listener()
            except Exception:
                # What goes wrong with one worker's answers must not end the records of all.
                _log.exception("listener_failed")

    def _take(self, last: int) -> list[Recording]:
        """Return the next group, empty when closed and drained; the one before had `last`."""
        with self._wake:
            self._enough = 1
            self._wake.wait_for(self._is_enough)
            if last > 1:
                self._enough = last
                self._wake.wait_for(self._is_enough, _GATHER_SECONDS)
            count = min(len(self._waiting), _MAX_GROUP)
            return [self._waiting.popleft() for _ in range(count)]

    def _is_enough(self) -> bool:
        """Return whether the next group may begin."""
        return self._is_closing or len(self._waiting) >= self._enough

    def _write(self, group: Sequence[Recording]) -> None:
        """Make a group durable and resolve its futures."""
        kept = [*self._insert(group), *(each for each in group if each.row is None)]
        if not kept:
            return
        try:
            self._chain.append([each.line() for each in kept])
        except StoreError as exc:
            self._chain_fault = str(exc)
            _fail(kept, exc)
            return
        self._chain_fault = None
        for each in kept:
            each.done.set_result(None)

    def _insert(self, group: Sequence[Recording]) -> list[Recording]:
        """Insert the rows of a group; return those that are in, fail the others."""
        with_row = [each for each in group if each.row is not None]
        if not with_row:
            return []
        try:
            return self._insert_together(with_row)
        except DuplicateSerialError as exc:
            if len(with_row) == 1:
                _fail(with_row, exc)
                return []
            # One of them is taken: each by itself, so that it alone is refused.
            return [one for each in with_row for one in self._insert([each])]
        except StoreError as exc:
            self._ledger_fault = str(exc)
            _fail(with_row, exc)
            return []

    def _insert_together(self, group: Sequence[Recording]) -> list[Recording]:
        """Insert rows in one transaction; those checked against older entries are not among them.

        Raises:
            DuplicateSerialError, StoreError: none is in.
        """
        store = self._store
        if store.is_shared or not all(each.is_redoable() for each in group):
            with store.write() as connection:
                revision = counter_value(connection, REGISTRY_REVISION)
                fresh = _checked_against(revision, group)
                insert_rows(connection, _rows(fresh))
        else:
            with store.write_redoable() as driver:
                revision = counter_value_directly(driver, REGISTRY_REVISION)
                fresh = _checked_against(revision, group)
                insert_rows_directly(driver, _rows(fresh))
        self._ledger_fault = None
        stale = [each for each in group if each.revision not in (None, revision)]
        _fail(stale, StaleRegistryError(f"the registry has moved on to revision {revision}"))
        return fresh


def _checked_against(revision: int, group: Sequence[Recording]) -> list[Recording]:
    """Return those that were checked against this revision of the registry, or against none."""
    return [each for each in group if each.revision in (None, revision)]


def _rows(group: Sequence[Recording]) -> list[LedgerValues]:
    """Return the rows of a group."""
    return [each.row for each in group if each.row is not None]


def _fail(group: Sequence[Recording], error: CaError) -> None:
    """End futures with an error."""
    for each in group:
        if not each.done.done():
            each.done.set_exception(error)
