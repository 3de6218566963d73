"""The newest decisions of a log, and those that are being written now.

A segment is read as it grows; when a newer one exists, what is left of the old one is read
first. A line is told once it is whole and holds its own hash. The reading begins at the last
segment but one: how far back it looks does not grow with the log.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from audit.chain import UNREADABLE, list_segments, open_segment, parse_line
from audit.errors import AuditReadError, DamagedLineError
from audit.logs import find_logs
from audit.query import Query
from audit.reader import time_of


@dataclass(frozen=True, slots=True)
class Damaged:
    """A whole line that does not hold its own hash: where it began, and what is wrong."""

    file: str
    offset: int
    why: str


def follow(
    folder: Path, query: Query, *, newest: int, wait: Callable[[], bool]
) -> Iterator[dict[str, Any] | Damaged]:
    """Yield the `newest` wanted decisions of the folder, then each as it is written.

    Those of several workers come merged by time, as far as they were written. `wait` is called
    when everything was told; it returns False to end. Damaged lines are told in their place: who
    watches is the first to know.

    Raises:
        AuditReadError: the folder holds no log, or cannot be read.
    """
    if newest < 0:
        raise ValueError("`newest` counts decisions")
    tails = _Tails(folder)
    try:
        found = (each for each in tails.read() if _is_wanted(each, query))
        yield from deque(found, maxlen=newest)
        while wait():
            yield from (each for each in tails.read() if _is_wanted(each, query))
    except OSError as exc:
        raise AuditReadError(f"`{folder}` cannot be read: {exc.strerror}") from exc
    finally:
        tails.close()


def _is_wanted(found: dict[str, Any] | Damaged, query: Query) -> bool:
    return isinstance(found, Damaged) or query.matches(found)


class _Tails:
    """The logs of a folder: a worker may begin one at any time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tails: dict[Path, _Tail] = {}

    def close(self) -> None:
        """Close the open segments."""
        for tail in self._tails.values():
            tail.close()

    def read(self) -> Iterator[dict[str, Any] | Damaged]:
        """Yield what was written since the last call."""
        for log in find_logs(self._folder):
            self._tails.setdefault(log, _Tail(log))
        for _, found in heapq.merge(*map(_timed, self._tails.values()), key=lambda each: each[0]):
            yield found


def _timed(tail: _Tail) -> Iterator[tuple[str, dict[str, Any] | Damaged]]:
    """Yield what a log tells with its time; what is damaged has that of the line before."""
    at = ""
    for found in tail.read():
        at = at if isinstance(found, Damaged) else time_of(found)
        yield at, found


class _Tail:
    """Where the reading of a folder stands: the open segment, and a line not yet whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._file: BinaryIO | None = None
        self._name = ""
        self._begun = b""
        self._offset = 0

    def close(self) -> None:
        """Close the open segment."""
        if self._file is not None:
            self._file.close()

    def read(self) -> Iterator[dict[str, Any] | Damaged]:
        """Yield what was written since the last call."""
        while True:
            # WHY before the reading: a segment that has a successor by now grows no more.
            later = self._later()
            yield from self._read_open()
            if later is None:
                return
            if self._begun:
                yield Damaged(self._name, self._offset, "the segment ends within a line")
            self._open(*later)

    def _later(self) -> tuple[int, Path] | None:
        """Return the segment after the open one.

        Raises:
            AuditReadError: the folder never held a segment.
        """
        segments = list_segments(self._folder)
        if self._file is None:
            if not segments:
                raise AuditReadError(f"`{self._folder}` holds no audit log")
            return segments[-2:][0]
        return next((each for each in segments if each[0] > self._number), None)

    def _open(self, number: int, path: Path) -> None:
        self.close()
        self._number, self._name = number, path.name
        self._file = open_segment(path)
        self._begun, self._offset = b"", 0

    def _read_open(self) -> Iterator[dict[str, Any] | Damaged]:
        while self._file is not None:
            try:
                piece = self._file.readline()
            except UNREADABLE:
                yield Damaged(self._name, self._offset, "the compressed bytes were changed")
                return
            self._begun += piece
            if not piece.endswith(b"\n"):
                return
            raw, offset = self._begun, self._offset
            self._begun, self._offset = b"", offset + len(raw)
            try:
                yield parse_line(raw).document
            except DamagedLineError as exc:
                yield Damaged(self._name, offset, exc.why)
