"""One sink, kept going: a thread that reads on from the cursor, sends, and tries again.

Theory of operation. A sink has no queue of its own: what it has not taken stands in the
segments, so that it loses nothing however long it is away, and nobody who decides waits for it.
The cursor moves after the sink has acknowledged lines; a process that ends in between sends
that one batch again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.errors import AuditLockedError
from audit.folder_lock import FolderLock
from audit.sinks.cursor import Cursor, cursor_path, load_cursor, save_cursor
from audit.sinks.following import Committed, Followed, SegmentFollower
from audit.sinks.sink import Sink, SinkError

_MAX_DOUBLINGS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a batch gathers, and how long to wait after a failure; `chance` is from 0 to 1."""

    delay_seconds: float
    min_retry_seconds: float
    max_retry_seconds: float
    chance: Callable[[], float]

    def retry_seconds(self, failures: int, asked: float) -> float:
        """Return the pause after so many failures in a row; the service may have `asked` for one.

        It doubles, and half of it is left to chance, so that instances do not come together.
        """
        doubled = self.min_retry_seconds * 2.0 ** min(failures - 1, _MAX_DOUBLINGS)
        pause = min(doubled, self.max_retry_seconds) * (0.5 + 0.5 * self.chance())
        return max(pause, min(asked, self.max_retry_seconds))


class SinkRunner:
    """A running sink. `sent` counts lines it took, `failed` attempts; `fault` is the last error."""

    def __init__(
        self,
        sink: Sink,
        folder: Path,
        committed: Committed,
        pace: Pace,
        on_fault: Callable[[str, str], None] = lambda _name, _why: None,
    ) -> None:
        """Take up the cursor; `on_fault` is told name and reason when a row of failures begins.

        Raises:
            OSError: the cursor cannot be read.
        """
        self.sent = 0
        self.failed = 0
        self.fault: str | None = None
        self._sink = sink
        self._folder = folder
        self._committed = committed
        self._pace = pace
        self._on_fault = on_fault
        self._path = cursor_path(folder, sink.name)
        self._saved = load_cursor(self._path)
        self._follower: SegmentFollower | None = None
        self._lock: FolderLock | None = None
        self._batch: list[Followed] = []
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"sink-{sink.name}", daemon=True)

    @property
    def name(self) -> str:
        """The sink's name."""
        return self._sink.name

    @property
    def saved(self) -> Cursor:
        """The end of what the sink has for certain, also after a crash."""
        return self._saved

    def start(self) -> None:
        """Begin to send."""
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that lines were written. Cheap: the writer calls it for every group."""
        self._wake.set()

    def close(self, *, timeout_seconds: float) -> None:
        """Send what waits, with one attempt a batch, and end."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self._sink.close()
            self._thread.join(1.0)

    def _run(self) -> None:
        failures = 0
        while True:
            try:
                while self._step():
                    failures = 0
                    self.fault = None
            except Exception as exc:  # the thread's top: a dead one would send nothing
                failures += 1
                if not self._pause(failures, exc):
                    break
                continue
            if self._stop.is_set():
                break
            self._wake.wait()
            self._wake.clear()
            self._stop.wait(self._pace.delay_seconds)
        self._sink.close()
        if self._follower is not None:
            self._follower.close()
        if self._lock is not None:
            self._lock.release()

    def _step(self) -> bool:
        """Send a batch and move the cursor; False when nothing waits.

        Raises:
            SinkError: the sink did not take it.
            OSError: the log cannot be read, or the cursor not be written.
            AuditLockedError: another process sends this log at the moment.
        """
        if self._follower is None:
            # One at a time: while its writer rested, another process may have sent the log on.
            self._lock = self._lock or FolderLock(self._folder, f"sink-{self.name}.lock")
            self._saved = load_cursor(self._path)
            self._follower = SegmentFollower(self._folder, self._saved, self._committed)
        if not self._batch:
            self._batch = self._follower.read(self._sink.batch_bytes)
        if not self._batch:
            return False
        count = self._sink.send([each.raw for each in self._batch])
        taken, self._batch = self._batch[:count], self._batch[count:]
        self.sent += count
        save_cursor(self._path, taken[-1].cursor)
        self._saved = taken[-1].cursor
        return True

    def _pause(self, failures: int, exc: Exception) -> bool:
        """Wait before the next attempt; False when the sink is to end."""
        why = _reason(exc)
        self.failed += 1
        if self.fault is None:
            self._on_fault(self.name, why)
        self.fault = why
        asked = exc.wait_seconds if isinstance(exc, SinkError) else 0.0
        return not self._stop.wait(self._pace.retry_seconds(failures, asked))


def _reason(exc: Exception) -> str:
    match exc:
        case SinkError():
            return str(exc)
        case AuditLockedError():
            return "another process sends this log at the moment"
        case OSError():
            return f"the log or its cursor: {exc.strerror or exc}"
        case _:
            return f"it failed: {type(exc).__name__}"
