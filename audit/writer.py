"""The writer: records go in from any thread, one thread puts them into the files.

Theory of operation. `offer` appends an already built record to a bounded queue
under a lock: no encoding, no masking, no I/O on the caller's side. A built record
and not a function that builds one, because what was accepted must not be able to
fail later, and because a closure would keep the whole request alive.
The writer thread takes all that waits, turns it into documents once, and appends
them (group write). While a write fails it keeps them, tries again after a pause,
and every `offer` is refused: the caller denies. What was accepted is written
when the folder takes writes again, in order, and a `resume` event says so.
That is the mode `spill`. In `strict` an offer returns when its record is on the disk;
what a failed write held is given up, since its answers were denials. In `best-effort`
no offer is refused: what finds no room is dropped, counted, and told on record.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from audit.accepted_count import AcceptedCount
from audit.checkpoint_files import open_signer
from audit.document import Document, document_from_event, document_from_record
from audit.errors import AuditFolderError, AuditUnavailable
from audit.record import AuditEvent, AuditRecord, EventName
from audit.redact import Redactor
from audit.segments import SegmentFolder
from audit.settings import AuditMode, AuditSettings, FsyncPolicy
from audit.ticket import Ticket

_BATCH: Final = 500  # BUDGET: documents held as text at once


_Offered: TypeAlias = AuditRecord | AuditEvent | Ticket


def _new_id() -> str:
    return uuid.uuid4().hex


class AuditWriter:
    """The open record. `written`, `failed` and `refused` are counters for metrics.

    `written` counts lines of records and events on their way into the chain,
    `failed` the failed attempts to write, `refused` the offers that were refused,
    `dropped` the records that were dropped, by cause (mode `best-effort` only).
    """

    def __init__(
        self,
        settings: AuditSettings,
        *,
        node: str,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = _new_id,
        start_details: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the folder, go on where the chain ended, write `start`, begin the thread.

        Raises:
            AuditFolderError: the folder cannot be used (AuditLockedError: in use).
            AuditKeyError: the key for checkpoints cannot be used.
        """
        self.written = 0
        self.failed = 0
        self.refused = 0
        self.dropped: dict[str, int] = {"queue_full": 0, "unwritable": 0, "closed": 0}
        self._untold: dict[str, int] = {}
        self._settings = settings
        self._mode = settings.mode
        self._node = node
        self._clock = clock
        self._redactor = Redactor(
            headers=settings.headers,
            claims=settings.claims,
            secret_headers=settings.secret_headers,
            secret_parameters=settings.secret_parameters,
        )
        self._queue: deque[_Offered] = deque()
        self._pending: deque[Document] = deque()
        self._tickets: deque[Ticket | None] = deque()  # of `_pending`, one each
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._told = threading.Condition(self._lock)
        self._fault: str | None = None
        self._has_probe = False
        self._closing = False
        self._give_up_at: float | None = None
        self._synced_at = time.monotonic()
        self._segments = SegmentFolder(
            settings.folder,
            max_bytes=settings.max_segment_bytes,
            node=node,
            clock=clock,
            new_id=new_id,
            signer=open_signer(settings, node),
        )
        self._open_chain(start_details or {})
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records that were accepted and are not yet written."""
        return len(self._queue) + len(self._pending)

    def offer(self, record: AuditRecord | AuditEvent) -> None:
        """Accept a record; it is written soon after, in the order of acceptance.

        Raises:
            AuditUnavailable: it was not accepted and will not be written.
        """
        with self._lock:
            if self._fault is not None or self._closing or len(self._queue) >= self._limit:
                if self._mode is AuditMode.BEST_EFFORT:
                    if self._drop():
                        return
                else:
                    self._wait_for_room()
            if self._mode is AuditMode.STRICT:
                ticket = Ticket(record)
                self._enqueue(ticket)
                self._wait_until_durable(ticket)
            else:
                self._enqueue(record)

    def health(self) -> str | None:
        """Return why records cannot be accepted now, or None when they can."""
        if self._closing:
            return "the audit writer is closed"
        return self._fault

    @property
    def is_denying(self) -> bool:
        """Whether requests are denied now because they could not be recorded."""
        return self._mode is not AuditMode.BEST_EFFORT and self.health() is not None

    def close(self, *, timeout_seconds: float = 10.0) -> None:
        """Write what waits, then `stop`, and leave the folder to others. Twice is once.

        Raises:
            AuditUnavailable: accepted records could not be written in time.
        """
        with self._lock:
            if not self._closing:
                self._closing = True
                self._give_up_at = time.monotonic() + timeout_seconds
                stop = AuditEvent(event=EventName.STOP, at=self._clock())
                self._enqueue(stop)
            self._wake.notify_all()
            self._room.notify_all()
        self._thread.join(timeout_seconds + 5.0)
        if self.waiting:
            raise AuditUnavailable(
                f"{self.waiting} accepted records could not be written: {self._fault}"
            )

    @property
    def _limit(self) -> int:
        return self._settings.queue_size

    def _open_chain(self, details: Mapping[str, Any]) -> None:
        """Write `resume` (if the end was not in order) and `start` before anything else."""
        now = self._clock()
        events = [AuditEvent(event=EventName.START, at=now, details=details)]
        try:
            end = self._segments
            self._accepted = AcceptedCount(end.folder, seq=end.state.seq, segment=end.number)
        except OSError as exc:
            self._segments.close()
            why = exc.strerror or "cannot be written"
            raise AuditFolderError(str(self._settings.folder), why) from exc
        found = dict(self._segments.resumed)
        if self._accepted.unwritten:
            found["unwritten_records"] = self._accepted.unwritten
        if found:
            events.insert(0, AuditEvent(event=EventName.RESUME, at=now, details=found))
        for event in events:
            self._append_own(event)
        try:
            self._append_pending()
        except OSError as exc:
            self._segments.close()
            why = exc.strerror or "cannot be written"
            raise AuditFolderError(str(self._settings.folder), why) from exc
        self._accepted.begin(seq=end.state.seq, segment=end.number)

    def _enqueue(self, offered: _Offered, *, first: bool = False) -> None:
        """Put into the queue, lock held, what will be one line."""
        self._accepted.add(1)
        if first:
            self._queue.appendleft(offered)
        else:
            self._queue.append(offered)
        if len(self._queue) == 1:
            self._wake.notify()

    def _append_own(self, event: AuditEvent, *, first: bool = False) -> None:
        """Put an event of the writer's own behind the pending documents, or before them."""
        document = self._document(event)
        if first:
            self._pending.appendleft(document)
            self._tickets.appendleft(None)
        else:
            self._pending.append(document)
            self._tickets.append(None)

    def _drop(self) -> bool:
        """Count a record, lock held, that finds no room; false when there is room after all."""
        if self._closing:
            cause = "closed"
        elif len(self._queue) >= self._limit:
            cause = "queue_full" if self._fault is None else "unwritable"
        else:
            return False
        self.dropped[cause] += 1
        if not self._closing:  # after `stop` only the counter tells
            self._untold[cause] = self._untold.get(cause, 0) + 1
        return True

    def _wait_until_durable(self, ticket: Ticket) -> None:
        """Wait, lock held, until the record is on the disk.

        Raises:
            AuditUnavailable: it is not, or not in time: then the record says that it was late.
        """
        wait = self._settings.queue_wait_milliseconds / 1000
        self._told.wait_for(lambda: ticket.is_durable or ticket.is_refused, timeout=wait)
        if ticket.is_durable:
            return
        self.refused += 1
        if ticket.is_refused:
            raise AuditUnavailable(self._fault or "the record could not be written")
        ticket.is_given_up = True
        if ticket in self._queue:
            self._queue.remove(ticket)
            self._accepted.add(-1)
        raise AuditUnavailable("the record did not come to be on the disk in time")

    def _wait_for_room(self) -> None:
        """Wait, lock held, until there is room; refuse when closed, failed or too late."""
        wait = self._settings.queue_wait_milliseconds / 1000
        self._room.wait_for(self._has_answer, timeout=wait if self._fault is None else 0)
        if self._closing:
            why = "the audit writer is closed"
        elif self._fault is not None:
            why = self._fault
        elif len(self._queue) >= self._limit:
            why = f"the audit queue is full: {self._limit} records wait"
        else:
            return
        self.refused += 1
        raise AuditUnavailable(why)

    def _has_answer(self) -> bool:
        return self._fault is not None or self._closing or len(self._queue) < self._limit

    def _run(self) -> None:
        """Write until closed; whatever ends the thread otherwise makes every offer refused."""
        try:
            self._write_until_closed()
        except Exception as exc:  # noqa: BLE001 - the thread's top: offers must learn that it died
            with self._lock:
                self._fault = f"the audit writer stopped: {type(exc).__name__}"
                self._room.notify_all()
                self._refuse_tickets()
            raise

    def _write_until_closed(self) -> None:
        """Write until closed and drained, or until closing takes too long."""
        while self._take_batch():
            while self._pending or self._fault is not None:
                if not self._try_append() and not self._pause():
                    self._segments.close()
                    return
        self._finish()

    def _take_batch(self) -> bool:
        """Move what waits to the pending documents; false when closed and drained."""
        with self._lock:
            while not self._queue and not self._closing:
                if not self._wake.wait(self._idle_seconds()):
                    break
            taken = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
            self._room.notify(len(taken))
            untold, self._untold = self._untold, {}
            self._accepted.add(1 if untold else 0)
            is_over = self._closing and not taken
        if not taken and not is_over:
            self._sync_idle()
        if untold:
            details = {"records": sum(untold.values()), "causes": untold}
            self._append_own(AuditEvent(event=EventName.DROPPED, at=self._clock(), details=details))
        for each in taken:
            record, ticket = (each.record, each) if isinstance(each, Ticket) else (each, None)
            self._pending.append(self._document(record))
            self._tickets.append(ticket)
        return not is_over

    def _document(self, record: AuditRecord | AuditEvent) -> Document:
        """Return the record's written form, or that of a fault in its place. Total."""
        try:
            if isinstance(record, AuditEvent):
                return document_from_event(record, node=self._node, redactor=self._redactor)
            return document_from_record(record, node=self._node, redactor=self._redactor)
        except Exception as exc:  # noqa: BLE001 - one odd record must not stop those behind it
            details = {
                "why": type(exc).__name__,
                "decision_id": str(getattr(record, "decision_id", ""))[:64],
            }
            fault = AuditEvent(event=EventName.RECORD_FAULT, at=self._clock(), details=details)
            return document_from_event(fault, node=self._node, redactor=self._redactor)

    def _append_pending(self) -> None:
        """Append the pending documents; each is dropped from memory only once committed."""
        while self._pending:
            sync = self._is_sync_due()
            done = self._segments.append(list(self._pending), sync=sync)
            if sync:
                self._synced_at = time.monotonic()
            for _ in range(done):
                self._pending.popleft()
            self.written += done
            self._tell_durable([self._tickets.popleft() for _ in range(done)])

    def _tell_durable(self, tickets: list[Ticket | None]) -> None:
        """Let go who waits for these; have the record name those that nobody waits for any more."""
        if self._mode is not AuditMode.STRICT:
            return
        with self._lock:
            late = []
            for ticket in tickets:
                if ticket is not None:
                    ticket.is_durable = True
                    if ticket.is_given_up:
                        late.append(str(getattr(ticket.record, "decision_id", "")))
            self._told.notify_all()
            if late:
                details = {"answered": "deny", "decision_ids": late}
                event = AuditEvent(event=EventName.RECORD_LATE, at=self._clock(), details=details)
                # `stop` stays the last line.
                self._enqueue(event, first=self._closing)

    def _refuse_tickets(self) -> int:
        """Give up, lock held, what nobody was told of as recorded; return how many."""
        if self._mode is not AuditMode.STRICT:
            return 0
        kept = [
            (document, ticket)
            for document, ticket in zip(self._pending, self._tickets, strict=True)
            if ticket is None
        ]
        waiting = [each for each in self._queue if isinstance(each, Ticket)]
        refused = [ticket for ticket in self._tickets if ticket is not None] + waiting
        for ticket in refused:
            ticket.is_refused = True
        self._queue = deque(each for each in self._queue if not isinstance(each, Ticket))
        self._pending = deque(document for document, _ in kept)
        self._tickets = deque(ticket for _, ticket in kept)
        self._accepted.add(-len(refused))
        self._told.notify_all()
        return len(refused)

    def _is_sync_due(self) -> bool:
        if self._mode is AuditMode.STRICT:
            return True
        match self._settings.fsync:
            case FsyncPolicy.BATCH:
                return True
            case FsyncPolicy.INTERVAL:
                waited = time.monotonic() - self._synced_at
                return waited * 1000 >= self._settings.fsync_milliseconds
            case FsyncPolicy.NEVER:
                return False

    def _try_append(self) -> bool:
        """Append what is pending; after a failure, take the folder up again first."""
        try:
            if self._fault is not None:
                self._segments.reopen()
                self._segments.sync()
            self._append_pending()
        except (OSError, AuditFolderError) as exc:
            self._fail(exc)
            return False
        self._recover()
        return True

    def _fail(self, exc: OSError | AuditFolderError) -> None:
        """Refuse offers from now on; those that wait for room learn it at once."""
        why = exc.strerror or str(exc) if isinstance(exc, OSError) else exc.why
        with self._lock:
            self.failed += 1
            self._fault = f"the audit log cannot be written: {why}"
            self._room.notify_all()
            if self._refuse_tickets():
                # What is pending now is the probe: offers are accepted again once it is written.
                details = {"cause": self._fault, "failed_attempts": self.failed}
                self._accepted.add(1)
                event = AuditEvent(event=EventName.RESUME, at=self._clock(), details=details)
                self._append_own(event, first=True)
                self._has_probe = True

    def _recover(self) -> None:
        """Accept offers again after a failure, and have the record say that there was one."""
        if self._fault is None:
            return
        with self._lock:
            details = {"cause": self._fault, "failed_attempts": self.failed}
            event = AuditEvent(event=EventName.RESUME, at=self._clock(), details=details)
            is_told, self._has_probe = self._has_probe, False
            # Once `stop` is written nothing follows it.
            if not is_told and (self._queue or not self._closing):
                self._enqueue(event, first=True)
            self._fault = None

    def _pause(self) -> bool:
        """Wait before the next attempt; false when closing has taken too long."""
        with self._lock:
            if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
                return False
            self._wake.wait(self._settings.retry_milliseconds / 1000)
            return True

    def _idle_seconds(self) -> float | None:
        """How long to sleep when nothing waits: for ever, unless a sync is due."""
        due = self._settings.fsync is FsyncPolicy.INTERVAL and self._segments.is_dirty
        return self._settings.fsync_milliseconds / 1000 if due else None

    def _sync_idle(self) -> None:
        try:
            self._segments.sync()
            self._synced_at = time.monotonic()
        except OSError as exc:
            self._fail(exc)

    def _finish(self) -> None:
        """Force the end to the disk (unless the policy is `never`) and let go of the folder."""
        if self._settings.fsync is not FsyncPolicy.NEVER:
            self._sync_idle()
        try:
            self._segments.seal()
        except OSError as exc:
            self._fail(exc)
        self._segments.close()
