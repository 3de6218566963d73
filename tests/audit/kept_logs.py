"""Logs of small segments for the tests of what is kept and what goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from audit.chain import list_segments
from audit.open_log import OpenLog
from audit.record import AuditRecord
from tests.waiting import until

NOW: Final = 1_700_000_000.0
ORIGIN: Final = "example.org/log"


def fill(log: OpenLog, record: Callable[[int], AuditRecord], numbers: range) -> None:
    """Write a record of each number, and wait until they are on the disk."""
    for number in numbers:
        log.writer.offer(record(number))
    until(lambda: log.writer.waiting == 0)


def segments(folder: Path) -> list[str]:
    """Return the names of a log's segments."""
    return [path.name for _, path in list_segments(folder)]
