"""Reading on from a cursor, over the ends of segments, while the log is written.

A line is given out once it is committed and holds its own hash: what a failed write left
half done is taken back by the writer, and must not have gone out. A damaged line is left out, as
every reader of the record does, and counted: `audit verify` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, TypeAlias

from audit.chain import MAX_LINE_BYTES, UNREADABLE, list_segments, open_segment, parse_line
from audit.errors import DamagedLineError
from audit.sinks.cursor import Cursor

_END: Final = b'"}\n'
_HASH_LENGTH: Final = 64

Committed: TypeAlias = Callable[[], tuple[int, int]]
"""The segment that is being written, and how many of its bytes will stay as they are."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A whole line, and where the reading stands after it."""

    raw: bytes
    cursor: Cursor


class SegmentFollower:
    """The open reading of one log. One thread uses it."""

    def __init__(self, folder: Path, cursor: Cursor, committed: Committed) -> None:
        """Begin after what the cursor names, or at the beginning where it fits nothing.

        `damaged` counts lines that were left out; `is_anew` says that the cursor did not fit.

        Raises:
            OSError: the folder cannot be read.
        """
        self.damaged = 0
        self.is_anew = False
        self._folder = folder
        self._committed = committed
        self._file: BinaryIO | None = None
        self.cursor = self._take_up(cursor)

    def close(self) -> None:
        """Close the open segment."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, limit: int) -> list[Followed]:
        """Return whole lines of about `limit` bytes, at least one if there is one.

        Raises:
            OSError: the log cannot be read now.
        """
        found, size = list[Followed](), 0
        for each in self._lines():
            found.append(each)
            size += len(each.raw)
            if size >= limit:
                break
        return found

    def _lines(self) -> Iterator[Followed]:
        while True:
            # WHY before the reading: a segment that has a successor by now grows no more.
            later = self._later()
            yield from self._read_open()
            if later is None:
                return
            self._open(*later)

    def _later(self) -> tuple[int, Path] | None:
        newest, _ = self._committed()
        segments = list_segments(self._folder)
        return next((each for each in segments if self.cursor.segment < each[0] <= newest), None)

    def _open(self, number: int, path: Path, offset: int = 0) -> None:
        self.close()
        self._file = open_segment(path)
        self._file.seek(offset)
        if not offset:
            self.cursor = replace(self.cursor, segment=number, offset=0)

    def _read_open(self) -> Iterator[Followed]:
        while self._file is not None:
            newest, size = self._committed()
            if self.cursor.segment == newest and self.cursor.offset >= size:
                return
            try:
                raw = self._file.readline(MAX_LINE_BYTES)
            except UNREADABLE:
                self.damaged += 1
                return
            if not raw:
                return
            end = self.cursor.offset + len(raw)
            try:
                line = parse_line(raw)
            except DamagedLineError:
                self.damaged += 1
                self.cursor = replace(self.cursor, offset=end)
                continue
            log_id = str(line.document.get("log_id", self.cursor.log_id))
            self.cursor = Cursor(self.cursor.segment, end, line.seq, line.hash, log_id)
            yield Followed(raw, self.cursor)

    def _take_up(self, cursor: Cursor) -> Cursor:
        """Return the cursor where it fits the log; else the begin of its segment, or of all.

        WHY again and not onwards: lines that were sent and then lost in a power cut are written
        anew under the same numbers, and twice is better than never.
        """
        segments = dict(list_segments(self._folder))
        path = segments.get(cursor.segment)
        if cursor == Cursor():
            return cursor
        if path is not None and _ends_with(path, cursor):
            self.cursor = cursor
            self._open(cursor.segment, path, cursor.offset)
            return cursor
        if path is None and segments and cursor.segment < (first := min(segments)):
            # Retained away, as no segment is before it was acknowledged; or another log.
            return cursor if _log_id(segments[first]) == cursor.log_id else Cursor()
        self.is_anew = True
        if path is not None and _log_id(path) == cursor.log_id:
            return replace(cursor, segment=cursor.segment - 1, offset=0)
        return Cursor()


def _ends_with(path: Path, cursor: Cursor) -> bool:
    """Whether the line that ends at the cursor bears the cursor's hash."""
    at = cursor.offset - len(_END) - _HASH_LENGTH
    if at < 0:
        return cursor.offset == 0
    with open_segment(path) as file:
        file.seek(at)
        return file.read(_HASH_LENGTH + len(_END)) == cursor.hash.encode() + _END


def _log_id(path: Path) -> str:
    with open_segment(path) as file:
        try:
            return str(parse_line(file.readline()).document.get("log_id", ""))
        except DamagedLineError:
            return ""
