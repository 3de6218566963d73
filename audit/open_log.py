"""An instance's open log: the writer, the sinks that follow it, and its housekeeping.

They are closed in the order in which lines go: what was accepted is written first, then what
was written is sent as far as it goes, and the folder is let go of last.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from audit.aging_clock import AgingClock, newest_time
from audit.errors import AuditFolderError
from audit.keeping import NO_SINK, LogKeeper
from audit.resting import RestingLogs, has_work
from audit.settings import AuditSettings
from audit.sinks.following import Committed
from audit.sinks.http_post import Address, HttpPost
from audit.sinks.running import Pace, SinkRunner
from audit.sinks.settings import UploadSettings
from audit.sinks.stdout import StdoutSink
from audit.sinks.upload import UploadSink
from audit.writer import AuditWriter

_STDOUT_FD: Final = 1
_FLUSH_SECONDS: Final = 5.0

OnFault = Callable[[str, str], None]
"""Told what fails (a sink's name, or `housekeeping`) and why, when it begins to."""


class OpenLog:
    """The open record of one instance, or of one of its workers."""

    def __init__(  # noqa: PLR0913 - what opens a log, each by name
        self,
        settings: AuditSettings,
        *,
        node: str,
        start_details: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
        on_fault: OnFault = lambda _name, _why: None,
        instance: AuditSettings | None = None,
    ) -> None:
        """Open the log of `settings.folder` and start all that belongs to it.

        `node` is the name of the host, for where the settings name no other. One of several
        workers gives `settings.for_worker(...)`. With the settings of the whole
        `instance`, logs of it that nobody writes at the moment are looked after as well.

        Raises:
            AuditFolderError: the folder cannot be used (AuditLockedError: in use).
            AuditKeyError: the key for checkpoints cannot be used.
        """
        self._is_open = False
        # Before the writer comes, whose first line is dated by the clock that may be wrong.
        stood_at, aging = newest_time(settings.folder), AgingClock(clock)
        self.writer = AuditWriter(
            settings,
            node=settings.node_name or node,
            clock=clock,
            start_details=start_details,
            on_written=self._on_written,
        )
        try:
            self.sinks = tuple(
                _runners(settings, settings.folder, lambda: self.writer.committed, chance, on_fault)
            )
        except OSError as exc:
            self.writer.close()
            raise AuditFolderError(str(settings.folder), exc.strerror or "is not readable") from exc
        self.keeper = LogKeeper(
            settings,
            self.writer,
            acknowledged=self._acknowledged,
            now=clock,
            aged_at=lambda: aging.now(lambda: stood_at),
            on_fault=lambda why: on_fault("housekeeping", why),
        )
        self._resting: RestingLogs | None = None
        if instance is not None and has_work(instance):
            self._resting = RestingLogs(
                instance,
                settings.folder,
                node=node,
                aging=aging,
                make_runners=lambda log, end: _runners(instance, log, end, chance, on_fault),
                on_fault=lambda why: on_fault("housekeeping", why),
            )
        for sink in self.sinks:
            sink.start()
        self.keeper.start()
        if self._resting is not None:
            self._resting.start()
        self._is_open = True
        self._on_written()  # what was written while they started

    def close(self, *, timeout_seconds: float = 10.0) -> None:
        """Write what waits, send what the sinks take at once, and let go of the folder.

        Raises:
            AuditUnavailable: accepted records could not be written in time, or forced to the disk.
        """
        try:
            if self._resting is not None:
                self._resting.close()
            self.keeper.close()
            self.writer.close(timeout_seconds=timeout_seconds)
        finally:
            for sink in self.sinks:
                sink.close(timeout_seconds=_FLUSH_SECONDS)

    def _acknowledged(self) -> float:
        """Return the segment before which every sink has all."""
        return min((each.saved.segment for each in self.sinks), default=NO_SINK)

    def _on_written(self) -> None:
        if self._is_open:
            for sink in self.sinks:
                sink.wake()
            self.keeper.wake()


def _runners(
    settings: AuditSettings,
    folder: Path,
    committed: Committed,
    chance: Callable[[], float],
    on_fault: OnFault,
) -> list[SinkRunner]:
    """Return the sinks of the log in `folder`, none started.

    Raises:
        OSError: a cursor cannot be read.
    """
    found = [
        _upload_runner(each, folder, committed, chance, on_fault) for each in settings.sinks.uploads
    ]
    if settings.sinks.stdout:
        pace = Pace(delay_seconds=0, min_retry_seconds=1, max_retry_seconds=60, chance=chance)
        found.append(SinkRunner(StdoutSink(_STDOUT_FD), folder, committed, pace, on_fault))
    return found


def _upload_runner(
    settings: UploadSettings,
    folder: Path,
    committed: Committed,
    chance: Callable[[], float],
    on_fault: OnFault,
) -> SinkRunner:
    address = Address(
        url=settings.url,
        timeout_seconds=settings.timeout_seconds,
        token_file=settings.token_file,
        ca_file=settings.ca_file,
        certificate_file=settings.certificate_file,
        key_file=settings.key_file,
    )
    sink = UploadSink(
        settings.name,
        HttpPost(address),
        max_body_bytes=settings.max_batch_bytes,
        labels=settings.labels,
    )
    pace = Pace(
        delay_seconds=settings.delay_milliseconds / 1000,
        min_retry_seconds=settings.min_retry_seconds,
        max_retry_seconds=settings.max_retry_seconds,
        chance=chance,
    )
    return SinkRunner(sink, folder, committed, pace, on_fault)
