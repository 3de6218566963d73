"""Where records are offered: a bounded queue before the one thread that writes.

Theory of operation. `offer` appends an already built record under a lock: no encoding,
no masking, no I/O on the caller's side. A built record and not a function that builds
one, because what was accepted must not be able to fail later, and because a closure
would keep the whole request alive. In the mode `spill` an offer past the bound waits a
little and is refused, and so is every one while the writer cannot write: the caller
denies. In `strict` an offer returns once its record is on the disk. In `best-effort` none
is refused: what finds no room is dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from audit.accepted_count import AcceptedCount
from audit.errors import AuditUnavailable
from audit.mould import RepeatedRecord
from audit.record import AuditEvent, AuditRecord, EventName
from audit.settings import AuditMode, AuditSettings
from audit.ticket import Ticket

CLOSED: Final = "the audit writer is closed"
_BATCH: Final = 500  # BUDGET: documents held as text at once
# WHY gathered: to wake the writer, and to hand it the interpreter, costs the caller more than all
# else that an offer does (50 us where its core sleeps); the lines of some milliseconds share that.
_GATHER_SECONDS: Final = 0.02
_GATHERED: Final = 256  # BUDGET: as many are not waited for longer: a killed process loses them

Offered: TypeAlias = AuditRecord | RepeatedRecord | AuditEvent | Ticket


@dataclass(frozen=True, slots=True)
class Taken:
    """What the writer takes at once: `dropped` by cause since the last time; `is_over`: the end."""

    offered: deque[Offered]
    dropped: dict[str, int]
    is_over: bool


class Intake:
    """The queue and what is known of the writer: `fault` says why nothing is accepted now.

    `refused` counts the offers that were refused, `dropped` the records that were dropped,
    by cause (mode `best-effort` only).
    """

    def __init__(
        self, settings: AuditSettings, accepted: AcceptedCount, clock: Callable[[], float]
    ) -> None:
        """Begin with nothing waiting."""
        self.refused = 0
        self.dropped: dict[str, int] = {"queue_full": 0, "unwritable": 0, "closed": 0}
        self.fault: str | None = None
        self._untold: dict[str, int] = {}
        self._mode = settings.mode
        self._limit = settings.queue_size
        self._many = max(2, min(_GATHERED, self._limit // 2))
        self._wait_seconds = settings.queue_wait_milliseconds / 1000
        self._accepted = accepted
        self._clock = clock
        self._queue: deque[Offered] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._told = threading.Condition(self._lock)
        self._is_resting = False
        self._has_taken = False
        self._closing = False
        self._give_up_at: float | None = None

    def __len__(self) -> int:
        """Return how many wait to be taken."""
        return len(self._queue)

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing

    def offer(self, record: AuditRecord | RepeatedRecord | AuditEvent) -> None:
        """Accept a record; it is taken in the order of acceptance.

        Raises:
            AuditUnavailable: it was not accepted and will not be written.
        """
        with self._lock:
            if self.fault is not None or self._closing or len(self._queue) >= self._limit:
                if self._mode is AuditMode.BEST_EFFORT:
                    if self._drop():
                        return
                else:
                    self._wait_for_room()
            if self._mode is AuditMode.STRICT:
                ticket = Ticket(record)
                self._enqueue(ticket)
                self._wait_until_durable(ticket, self._wait_seconds)
            else:
                self._enqueue(record)

    def offer_durably(self, event: AuditEvent, *, timeout_seconds: float) -> None:
        """Accept an event of the house in any mode, and return once it is on the disk.

        Raises:
            AuditUnavailable: it is not.
        """
        with self._lock:
            self._wait_for_room()
            ticket = Ticket(event)
            self._enqueue(ticket)
            self._wake.notify()
            self._wait_until_durable(ticket, timeout_seconds)

    def close(self, *, timeout_seconds: float) -> None:
        """Accept nothing more and have `stop` be the last line. Twice is once."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._give_up_at = time.monotonic() + timeout_seconds
                self._enqueue(AuditEvent(event=EventName.STOP, at=self._clock()))
            self._wake.notify_all()
            self._room.notify_all()

    def take(self, idle_seconds: float | None) -> Taken:
        """Return what waits, once something does, or after `idle_seconds`, or when closing.

        While records keep coming the writer wakes by the clock; only at rest an offer wakes it.
        """
        with self._lock:
            if self._has_taken:
                self._gather()
            while not self._queue and not self._closing:
                self._is_resting = True
                is_woken = self._wake.wait(idle_seconds)
                self._is_resting = False
                if not is_woken:
                    break
                self._gather()
            taken = self._queue
            if len(taken) <= _BATCH:
                self._queue = deque()
            else:
                taken = deque([self._queue.popleft() for _ in range(_BATCH)])
            if self._closing and len(taken) > 1 and not self._queue:
                # `stop` waits for those before it: what is late of them is told in front of it.
                self._queue.append(taken.pop())
            self._room.notify(len(taken))
            self._has_taken = bool(taken)
            untold, self._untold = self._untold, {}
            self._accepted.add(1 if untold else 0)
            return Taken(taken, untold, self._closing and not taken)

    def _gather(self) -> None:
        """Wait, lock held, for more to come, unless somebody waits for what is there."""
        is_enough = self._closing or len(self._queue) >= self._many
        if self._mode is not AuditMode.STRICT and not is_enough:
            self._wake.wait(_GATHER_SECONDS)

    def pause(self, seconds: float) -> bool:
        """Wait before the next attempt to write; false when closing has taken too long."""
        with self._lock:
            if self._give_up_at is not None and time.monotonic() >= self._give_up_at:
                return False
            self._wake.wait(seconds)
            return True

    def tell_durable(self, tickets: Iterable[Ticket]) -> None:
        """Let go who waits for these; have the record name those that nobody waits for any more."""
        with self._lock:
            late = []
            for ticket in tickets:
                ticket.is_durable = True
                if ticket.is_given_up:
                    late.append(str(getattr(ticket.record, "decision_id", "")))
            self._told.notify_all()
            if late:
                details = {"answered": "deny", "decision_ids": late}
                event = AuditEvent(event=EventName.RECORD_LATE, at=self._clock(), details=details)
                # `stop` stays the last line.
                self._enqueue(event, first=self._closing)

    def fail(self, why: str, tickets: Iterable[Ticket]) -> int:
        """Refuse offers from now on; those that wait for room learn it at once.

        What nobody was told of as recorded is given up: these tickets and those in the queue.
        Returns how many.
        """
        with self._lock:
            self.fault = why
            self._room.notify_all()
            refused = [*tickets, *(each for each in self._queue if isinstance(each, Ticket))]
            for ticket in refused:
                ticket.is_refused = True
            self._queue = deque(each for each in self._queue if not isinstance(each, Ticket))
            self._accepted.add(-len(refused))
            self._told.notify_all()
            return len(refused)

    def count_own(self) -> None:
        """Count one line of the writer's own that does not come through the queue."""
        with self._lock:
            self._accepted.add(1)

    def recover(self, event: AuditEvent | None) -> None:
        """Accept offers again; `event` says on record that there was a fault, None: it is told."""
        with self._lock:
            # Once `stop` is written nothing follows it.
            if event is not None and (self._queue or not self._closing):
                self._enqueue(event, first=True)
            self.fault = None

    def _enqueue(self, offered: Offered, *, first: bool = False) -> None:
        """Put into the queue, lock held, what will be one line."""
        self._accepted.add(1)
        if first:
            self._queue.appendleft(offered)
        else:
            self._queue.append(offered)
        if self._is_resting or len(self._queue) == self._many:
            self._is_resting = False
            self._wake.notify()

    def _drop(self) -> bool:
        """Count a record, lock held, that finds no room; false when there is room after all."""
        if self._closing:
            cause = "closed"
        elif len(self._queue) >= self._limit:
            cause = "queue_full" if self.fault is None else "unwritable"
        else:
            return False
        self.dropped[cause] += 1
        if not self._closing:  # after `stop` only the counter tells
            self._untold[cause] = self._untold.get(cause, 0) + 1
        return True

    def _wait_until_durable(self, ticket: Ticket, seconds: float) -> None:
        """Wait, lock held, until the record is on the disk.

        Raises:
            AuditUnavailable: it is not, or not in time: then the record says that it was late.
        """
        self._told.wait_for(lambda: ticket.is_durable or ticket.is_refused, timeout=seconds)
        if ticket.is_durable:
            return
        self.refused += 1
        if ticket.is_refused:
            raise AuditUnavailable(self.fault or "the record could not be written")
        ticket.is_given_up = True
        if ticket in self._queue:
            self._queue.remove(ticket)
            self._accepted.add(-1)
        raise AuditUnavailable("the record did not come to be on the disk in time")

    def _wait_for_room(self) -> None:
        """Wait, lock held, until there is room; refuse when closed, failed or too late."""
        self._room.wait_for(
            self._has_answer, timeout=self._wait_seconds if self.fault is None else 0
        )
        if self._closing:
            why = CLOSED
        elif self.fault is not None:
            why = self.fault
        elif len(self._queue) >= self._limit:
            why = f"the audit queue is full: {self._limit} records wait"
        else:
            return
        self.refused += 1
        raise AuditUnavailable(why)

    def _has_answer(self) -> bool:
        return self.fault is not None or self._closing or len(self._queue) < self._limit
