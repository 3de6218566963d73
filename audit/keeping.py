"""Housekeeping of an open log: closed segments are compressed, old ones are removed.

A thread of its own does it, when a segment was closed and once an hour: nothing that
decides waits for it, and what it cannot do now it tries again.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from audit.compressing import compress_closed
from audit.errors import AuditLockedError, AuditUnavailable
from audit.folder_lock import FolderLock
from audit.record import AuditEvent, EventName
from audit.retaining import find_removal, remove
from audit.settings import AuditSettings, Compression
from audit.writer import AuditWriter

_LOOK_SECONDS: Final = 3600.0  # how late what grew too old may go
_AGAIN_SECONDS: Final = 5.0
_LOCK_NAME: Final = "audit.keeping"


@dataclass(frozen=True, slots=True)
class Kept:
    """How many segments were compressed, and how many removed."""

    compressed: int
    removed: int


def keep_log(
    settings: AuditSettings,
    *,
    newest: int,
    acknowledged: float,
    now: float,
    aged_at: float,
    record: Callable[[AuditEvent], None],
) -> Kept:
    """Compress the segments before `newest`, then remove what may go. One process at a time.

    `acknowledged`: sinks have all segments before this one. By `aged_at` it is judged what is too
    old, by `now` what is done is dated. `record` puts an event on record,
    durably, before anything is removed.

    Raises:
        AuditLockedError: another process does it.
        OSError: a file could not be made or removed.
        AuditUnavailable: the record takes no event, without which nothing is removed.
    """
    compressed = removed = 0
    lock = FolderLock(settings.folder, _LOCK_NAME)
    try:
        if settings.compression is Compression.GZIP:
            compressed = compress_closed(settings.folder, newest)
        if settings.retention.is_wanted:
            removal = find_removal(
                settings.folder,
                settings.retention,
                now=aged_at,
                open_segment=newest,
                acknowledged=acknowledged,
            )
            if removal is not None:
                name = EventName.SEGMENTS_REMOVED
                record(AuditEvent(event=name, at=now, details=removal.details))
                remove(settings.folder, removal)
                removed = len(removal.segments)
    finally:
        lock.release()
    return Kept(compressed, removed)


class LogKeeper:
    """The housekeeper of one log. `removed` counts segments, `fault` says what fails now."""

    def __init__(
        self,
        settings: AuditSettings,
        writer: AuditWriter,
        *,
        acknowledged: Callable[[], float],
        now: Callable[[], float],
        aged_at: Callable[[], float],
        on_fault: Callable[[str], None],
    ) -> None:
        """Keep what to look after; `acknowledged`: sinks have all segments before this one.

        `now` and `aged_at` return epoch seconds; see `keep_log`.
        """
        self.removed = 0
        self.compressed = 0
        self.fault: str | None = None
        self._settings = settings
        self._writer = writer
        self._acknowledged = acknowledged
        self._now = now
        self._aged_at = aged_at
        self._on_fault = on_fault
        self._seen = -1
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-keeper", daemon=True)

    def start(self) -> None:
        """Begin with what is there."""
        self._thread.start()

    def wake(self) -> None:
        """Look whether a segment was closed. Cheap: the writer calls it for every group."""
        if self._writer.committed[0] != self._seen:
            self._wake.set()

    def close(self) -> None:
        """End; a segment that is being compressed is ended first."""
        self._stop.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._seen = self._writer.committed[0]
            seconds = _LOOK_SECONDS
            try:
                self._keep()
            except AuditLockedError:
                seconds = _AGAIN_SECONDS  # another process looks after it at the moment
            except (OSError, AuditUnavailable) as exc:
                self._note(exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc))
            except Exception as exc:  # the thread's top: a dead one keeps nothing
                self._note(f"it failed: {type(exc).__name__}")
            else:
                self.fault = None
            self._wake.wait(seconds)
            self._wake.clear()

    def _keep(self) -> None:
        kept = keep_log(
            self._settings,
            newest=self._writer.committed[0],
            acknowledged=self._acknowledged(),
            now=self._now(),
            aged_at=self._aged_at(),
            record=self._writer.offer_durably,
        )
        self.compressed += kept.compressed
        self.removed += kept.removed

    def _note(self, why: str) -> None:
        if self.fault is None:
            self._on_fault(why)
        self.fault = why


NO_SINK: Final = math.inf
"""What `acknowledged` says where there is no sink."""
