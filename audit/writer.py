"""The writer: what was accepted goes into the files, by one thread.

Theory of operation. The thread takes all that waits in the intake, turns it into documents
once, and appends them (group write). While a write fails it keeps them, tries again after a
pause, and every offer is refused: the caller denies. What was accepted is written
when the folder takes writes again, in order, and a `resume` event says so.
That is the mode `spill`. In `strict` what a failed write held is given up, since its
answers were denials. In `best-effort` what was dropped is told on record.
"""

from __future__ import annotations

import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from audit.accepted_count import AcceptedCount
from audit.checkpoint_files import open_signer
from audit.document import Document, document_from_event, document_from_record
from audit.errors import AuditFolderError, AuditUnavailable
from audit.intake import CLOSED, Intake, Offered, Taken
from audit.keyed_hash import open_keyed_hash
from audit.mould import Rendered, RepeatedRecord, render_repeated
from audit.record import AuditEvent, AuditRecord, EventName
from audit.redact import Redactor
from audit.sections import SectionRenderer
from audit.segments import SegmentFolder
from audit.settings import AuditMode, AuditSettings, FsyncPolicy
from audit.ticket import Ticket


class _Pending(NamedTuple):
    """A document on its way into the files, and who waits for it."""

    document: Document | Rendered
    ticket: Ticket | None


def _new_id() -> str:
    return uuid.uuid4().hex


class AuditWriter:
    """The open record. `written` and `failed` are counters for metrics.

    `written` counts lines of records and events on their way into the chain,
    `failed` the failed attempts to write.
    """

    def __init__(
        self,
        settings: AuditSettings,
        *,
        node: str,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = _new_id,
        start_details: Mapping[str, Any] | None = None,
        on_written: Callable[[], None] = lambda: None,
    ) -> None:
        """Open the folder, go on where the chain ended, write `start`, begin the thread.

        `on_written` is called by the thread after each group of lines.

        Raises:
            AuditFolderError: the folder cannot be used (AuditLockedError: in use).
            AuditKeyError: the key for checkpoints, or that of hashes, cannot be used.
        """
        self.written = 0
        self.failed = 0
        self._settings = settings
        self._mode = settings.mode
        self._node = node
        self._clock = clock
        self._on_written = on_written
        self._redactor = Redactor(
            headers=settings.headers,
            claims=settings.claims,
            secret_headers=settings.secret_headers,
            secret_parameters=settings.secret_parameters,
            hashing=open_keyed_hash(settings),
        )
        self._sections = SectionRenderer(node, self._redactor)
        self._taken: deque[Offered] = deque()
        self._pending: deque[_Pending] = deque()
        self._has_probe = False
        self._synced_at = time.monotonic()
        self._segments = SegmentFolder(
            settings.folder,
            max_bytes=settings.max_segment_bytes,
            node=node,
            clock=clock,
            new_id=new_id,
            signer=open_signer(settings, node),
            max_age_seconds=settings.max_segment_seconds or math.inf,
        )
        try:
            self._intake = self._open_chain(start_details or {})
        except OSError as exc:
            self._segments.close()
            why = exc.strerror or "cannot be written"
            raise AuditFolderError(str(settings.folder), why) from exc
        self._thread = threading.Thread(target=self._run, name="audit-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records that were accepted and are not yet written."""
        return len(self._intake) + len(self._taken) + len(self._pending)

    @property
    def refused(self) -> int:
        """Offers that were refused."""
        return self._intake.refused

    @property
    def dropped(self) -> Mapping[str, int]:
        """Records that were dropped, by cause (mode `best-effort` only)."""
        return self._intake.dropped

    def offer(self, record: AuditRecord | RepeatedRecord | AuditEvent) -> None:
        """Accept a record; it is written soon after, in the order of acceptance.

        Raises:
            AuditUnavailable: it was not accepted and will not be written.
        """
        self._intake.offer(record)

    def offer_durably(self, event: AuditEvent, *, timeout_seconds: float = 10.0) -> None:
        """Accept an event in any mode and return once it is on the disk.

        Raises:
            AuditUnavailable: it is not.
        """
        self._intake.offer_durably(event, timeout_seconds=timeout_seconds)

    @property
    def committed(self) -> tuple[int, int]:
        """The open segment's number, and how many of its bytes will stay as they are."""
        return self._segments.committed

    @property
    def last_seq(self) -> int:
        """The number of the newest line."""
        return self._segments.state.seq

    def health(self) -> str | None:
        """Return why records cannot be accepted now, or None when they can."""
        return CLOSED if self._intake.is_closing else self._intake.fault

    @property
    def is_denying(self) -> bool:
        """Whether requests are denied now because they could not be recorded."""
        return self._mode is not AuditMode.BEST_EFFORT and self.health() is not None

    def close(self, *, timeout_seconds: float = 10.0) -> None:
        """Write what waits, then `stop`, and leave the folder to others. Twice is once.

        Raises:
            AuditUnavailable: accepted records could not be written in time, or forced to the disk.
        """
        self._intake.close(timeout_seconds=timeout_seconds)
        self._thread.join(timeout_seconds + 5.0)
        if self.waiting:
            raise AuditUnavailable(
                f"{self.waiting} accepted records could not be written: {self._intake.fault}"
            )
        fault = "the disk does not answer" if self._thread.is_alive() else self._intake.fault
        if fault is not None:
            raise AuditUnavailable(f"the end of the record may not be on the disk: {fault}")

    def _open_chain(self, details: Mapping[str, Any]) -> Intake:
        """Write `resume` (if the end was not in order) and `start` before anything else.

        Raises:
            OSError: they cannot be written.
        """
        now = self._clock()
        end = self._segments
        accepted = AcceptedCount(end.folder, seq=end.state.seq, segment=end.number)
        found = dict(end.resumed)
        if accepted.unwritten:
            found["unwritten_records"] = accepted.unwritten
        if found:
            self._append_own(AuditEvent(event=EventName.RESUME, at=now, details=found))
        self._append_own(AuditEvent(event=EventName.START, at=now, details=details))
        self._intake = Intake(self._settings, accepted, self._clock)
        self._append_pending()
        accepted.begin(seq=end.state.seq, segment=end.number)
        return self._intake

    def _append_own(self, event: AuditEvent, *, first: bool = False) -> None:
        """Put an event of the writer's own behind the pending documents, or before them."""
        pending = _Pending(self._document(event), None)
        if first:
            self._pending.appendleft(pending)
        else:
            self._pending.append(pending)

    def _run(self) -> None:
        """Write until closed; whatever ends the thread otherwise makes every offer refused."""
        try:
            self._write_until_closed()
        except Exception as exc:  # the thread's top: offers must learn that it died
            self._intake.fail(f"the audit writer stopped: {type(exc).__name__}", self._tickets())
            raise

    def _write_until_closed(self) -> None:
        """Write until closed and drained, or until closing takes too long."""
        is_over = False
        while not is_over:
            taken = self._intake.take(self._idle_seconds())
            is_over = taken.is_over
            self._take_in(taken)
            while self._pending or self._intake.fault is not None:
                if not self._try_append() and not self._pause():
                    self._segments.close()
                    return
        self._finish()

    def _take_in(self, taken: Taken) -> None:
        """Move what was taken to the pending documents."""
        if not taken.offered and not taken.is_over:
            self._rest()
        if taken.dropped:
            details = {"records": sum(taken.dropped.values()), "causes": taken.dropped}
            self._append_own(AuditEvent(event=EventName.DROPPED, at=self._clock(), details=details))
        offered = self._taken = taken.offered
        # WHY one by one: a record that goes while it is in the cache makes room for the next check.
        while offered:
            each = offered[0]
            record, ticket = (each.record, each) if isinstance(each, Ticket) else (each, None)
            self._pending.append(_Pending(self._document(record), ticket))
            offered.popleft()

    def _document(self, record: AuditRecord | RepeatedRecord | AuditEvent) -> Document | Rendered:
        """Return the record's written form, or that of a fault in its place. Total."""
        try:
            if isinstance(record, RepeatedRecord):
                rendered = render_repeated(record, self._node, self._redactor)
                if rendered is not None:
                    return rendered
                record = record.whole()
            if isinstance(record, AuditEvent):
                return document_from_event(record, node=self._node, redactor=self._redactor)
            rendered = self._sections.render(record)
            if rendered is not None:
                return rendered
            return document_from_record(record, node=self._node, redactor=self._redactor)
        except Exception as exc:  # one odd record must not stop those behind it
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
            done = self._segments.append([each.document for each in self._pending], sync=sync)
            if sync:
                self._synced_at = time.monotonic()
            committed = [self._pending.popleft() for _ in range(done)]
            self.written += done
            tickets = [each.ticket for each in committed if each.ticket is not None]
            if tickets:
                self._intake.tell_durable(tickets)
            self._on_written()

    def _tickets(self) -> list[Ticket]:
        return [each.ticket for each in self._pending if each.ticket is not None]

    def _is_sync_due(self) -> bool:
        if self._mode is AuditMode.STRICT or self._tickets():
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
            if self._intake.fault is not None:
                self._segments.reopen()
                self._segments.sync()
            self._append_pending()
        except (OSError, AuditFolderError) as exc:
            self._fail(exc)
            return False
        self._recover()
        return True

    def _fail(self, exc: OSError | AuditFolderError) -> None:
        """Have offers refused from now on, and keep of what is pending what nobody waits for."""
        why = exc.strerror or str(exc) if isinstance(exc, OSError) else exc.why
        self.failed += 1
        if self._intake.fail(f"the audit log cannot be written: {why}", self._tickets()):
            self._pending = deque(each for each in self._pending if each.ticket is None)
            # What is pending now is the probe: offers are accepted again once it is written.
            self._intake.count_own()
            self._append_own(self._resume_event(), first=True)
            self._has_probe = True

    def _recover(self) -> None:
        """Accept offers again after a failure, and have the record say that there was one."""
        if self._intake.fault is not None:
            is_told, self._has_probe = self._has_probe, False
            self._intake.recover(None if is_told else self._resume_event())

    def _resume_event(self) -> AuditEvent:
        details = {"cause": self._intake.fault, "failed_attempts": self.failed}
        return AuditEvent(event=EventName.RESUME, at=self._clock(), details=details)

    def _pause(self) -> bool:
        return self._intake.pause(self._settings.retry_milliseconds / 1000)

    def _idle_seconds(self) -> float | None:
        """How long to sleep when nothing waits: for ever, unless a sync or a new segment is due."""
        due = self._settings.fsync is FsyncPolicy.INTERVAL and self._segments.is_dirty
        sync = self._settings.fsync_milliseconds / 1000 if due else math.inf
        seconds = min(sync, max(0.0, self._segments.seconds_left))
        return min(seconds, threading.TIMEOUT_MAX) if seconds < math.inf else None

    def _rest(self) -> None:
        """Do what is due while nothing waits: force lines to the disk, close an old segment."""
        self._sync_idle()
        if self._intake.fault is None:
            try:
                self._segments.close_aged()
            except OSError as exc:
                self._fail(exc)
            self._on_written()

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
