"""Logs that nobody writes at the moment: a worker that was replaced, or the process before workers.

What such a log still holds for sinks is sent, and it is compressed and retained like the others,
by whichever process of the instance finds it first. A log that is being written is left alone.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from audit.aging_clock import AgingClock, newest_time
from audit.chain import COMPRESSED, list_segments
from audit.errors import AuditError, AuditLockedError
from audit.folder_lock import is_being_written
from audit.keeping import NO_SINK, keep_log
from audit.logs import find_logs, worker_of
from audit.record import AuditEvent
from audit.settings import AuditSettings, Compression
from audit.sinks.cursor import cursor_path, load_cursor
from audit.sinks.following import Committed
from audit.sinks.running import SinkRunner
from audit.writer import AuditWriter

_LOOK_SECONDS: Final = 60.0
_SEND_SECONDS: Final = 30.0  # for one log and sink at a time; the rest a minute later

MakeRunners = Callable[[Path, Committed], Sequence[SinkRunner]]
"""The sinks of a log, none started; raises OSError."""


def has_work(settings: AuditSettings) -> bool:
    """Whether anything is ever to be done about a log at rest."""
    sinks = settings.sinks
    return bool(
        sinks.uploads
        or sinks.stdout
        or settings.retention.is_wanted
        or settings.compression is not Compression.NONE
    )


class RestingLogs:
    """The thread that looks after them. `settings` are those of the instance, not of a worker."""

    def __init__(
        self,
        settings: AuditSettings,
        own: Path,
        *,
        node: str,
        aging: AgingClock,
        make_runners: MakeRunners,
        on_fault: Callable[[str], None],
    ) -> None:
        """Keep what to look for; `own` is the log that this process writes."""
        self._settings = settings
        self._own = own
        self._node = node
        self._aging = aging
        self._make_runners = make_runners
        self._on_fault = on_fault
        self._sending: SinkRunner | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-resting", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End; what is being sent is given up, and goes on elsewhere or later."""
        self._stop.set()
        sending = self._sending
        if sending is not None:
            sending.close(timeout_seconds=0)
        self._thread.join(_SEND_SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except (OSError, AuditError) as exc:
                self._on_fault(f"logs at rest: {exc}")
            except Exception as exc:  # the thread's top: a dead one sends nothing
                self._on_fault(f"logs at rest: {type(exc).__name__}")
            self._stop.wait(_LOOK_SECONDS)

    def look(self) -> None:
        """Look after each log at rest, once.

        Raises:
            OSError, AuditError: one of them cannot be read or written.
        """
        for log in find_logs(self._settings.folder):
            if log != self._own and not self._stop.is_set():
                self._look_after(log)

    def _look_after(self, log: Path) -> None:
        # WHY the end before the question: whoever begins to write it later writes behind that.
        number, path = list_segments(log)[-1]
        is_packed = path.name.endswith(COMPRESSED)
        end = (number, sys.maxsize if is_packed else path.stat().st_size)
        if is_being_written(log):
            return
        self._send(log, end)
        try:
            self._keep(log, number)
        except AuditLockedError:
            return  # its writer is back

    def _send(self, log: Path, end: tuple[int, int]) -> None:
        for runner in self._make_runners(log, lambda: end):
            at = runner.saved
            if (at.segment, at.offset) != end and not self._stop.is_set():
                self._sending = runner
                runner.start()
                runner.close(timeout_seconds=_SEND_SECONDS)
        self._sending = None

    def _keep(self, log: Path, newest: int) -> None:
        worker = worker_of(log)
        settings = self._settings
        if worker:
            settings = settings.for_worker(worker, node=self._node)

        def record(event: AuditEvent) -> None:
            writer = AuditWriter(settings, node=settings.node_name or self._node)
            try:
                writer.offer_durably(event)
            finally:
                writer.close()

        names = [each.name for each in settings.sinks.uploads]
        names += ["stdout"] * settings.sinks.stdout
        ends = [load_cursor(cursor_path(log, name)).segment for name in names]
        keep_log(
            settings,
            newest=newest,
            acknowledged=min(ends, default=NO_SINK),
            now=self._aging.told(),
            aged_at=self._aging.now(lambda: newest_time(log)),
            record=record,
        )
