"""From the rows of an answer back to the lines they were made of, in the segments themselves."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, Final

from audit.chain import MAX_LINE_BYTES, Line, open_segment, parse_line, read_raw_lines
from audit.errors import AuditReadError, DamagedLineError

_MARK: Final = slice(-66, -50)  # the first 16 digits of a line's hash, without the line's end
_HELD: Final = 4  # BUDGET: segments whose lines are held: rows come in order, from few at a time


class SegmentLines:
    """Gives the line that a row was made of. What an answer shows is never taken from columns."""

    def __init__(self) -> None:
        """Hold no segment yet."""
        self._files: OrderedDict[Path, BinaryIO] = OrderedDict()
        self._searched: OrderedDict[Path, dict[int, list[bytes]]] = OrderedDict()

    def close(self) -> None:
        """Close what is open."""
        while self._files:
            self._files.popitem()[1].close()
        self._searched.clear()

    def line(self, segment: Path, mark: int, at_byte: int | None) -> Line:
        """Return the line whose hash begins with `mark`, by the byte it begins at, if known.

        Raises:
            AuditReadError: it is there no more.
            OSError: the segment cannot be read.
        """
        raw = b"" if at_byte is None else self._at(segment, at_byte)
        candidates = [raw] if _mark_of(raw) == mark else self._lines(segment).get(mark, [])
        for candidate in candidates:
            try:
                # A line whose end was cut off, and nothing before it, holds its own hash.
                return parse_line(candidate.removesuffix(b"\n") + b"\n")
            except DamagedLineError:
                continue
        raise AuditReadError(f"`{segment}` was changed while it was read")

    def _at(self, segment: Path, at_byte: int) -> bytes:
        file = self._files.get(segment)
        if file is None:
            file = self._files[segment] = open_segment(segment)
            if len(self._files) > _HELD:
                self._files.popitem(last=False)[1].close()
        file.seek(at_byte)
        return file.readline(MAX_LINE_BYTES)

    def _lines(self, segment: Path) -> dict[int, list[bytes]]:
        """Return every line of a segment by its mark, which a damaged copy may share."""
        found = self._searched.get(segment)
        if found is None:
            found = self._searched[segment] = {}
            for raw in read_raw_lines(segment):
                found.setdefault(_mark_of(raw), []).append(raw)
            if len(self._searched) > _HELD:
                self._searched.popitem(last=False)
        return found


def _mark_of(raw: bytes) -> int:
    """Return the number that the first digits of a line's hash are, -1 where it has none."""
    try:
        return int(raw.removesuffix(b"\n")[_MARK], 16)
    except ValueError:
        return -1
