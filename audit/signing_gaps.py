"""Sealed segments without a checkpoint of their own: was signing ended there, or was it taken away?

Theory of operation. Who switches signing off cannot be told by the files from who takes
checkpoints away and writes what they covered anew: in both cases lines follow that nothing signs.
So the end of signing is itself signed: `meshwarden audit end-signing` writes a
`signing_ended` event as the last line but `stop` and signs a checkpoint that covers it. Nobody
without the key can put that event among signed lines. What follows is held by the chain alone,
which is told in each case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from audit.chain import list_segments, parse_line, read_raw_lines
from audit.errors import DamagedLineError
from audit.record import EventName, Kind


@dataclass(frozen=True, slots=True)
class Gap:
    """Lines `begin + 1` to `end` of sealed segments without a checkpoint at their own end."""

    first: int
    last: int
    begin: int
    end: int

    def __str__(self) -> str:
        """Return which lines of which segments."""
        lines = f"lines {self.begin + 1} to {self.end}"
        which = f" {self.first}" if self.first == self.last else f"s {self.first} to {self.last}"
        return f"{lines} (of sealed segment{which})"


def joined(gaps: Iterable[Gap]) -> list[Gap]:
    """Return gaps, in order, each with those that follow it at once as one."""
    found: list[Gap] = []
    for gap in gaps:
        if found and (found[-1].last + 1, found[-1].end) == (gap.first, gap.begin):
            before = found.pop()
            found.append(Gap(before.first, gap.last, before.begin, gap.end))
        else:
            found.append(gap)
    return found


def says_ended(folder: Path, seq: int) -> bool:
    """Whether the event `signing_ended` is the end of a log's first `seq` lines, but for `stop`.

    Raises:
        OSError: the folder cannot be read.
    """
    held: list[str] = []
    for path in reversed(_until(folder, seq)):
        held = [*_last_names(path, seq), *held]
        if len(held) > 1:
            break
    if held and held[-1] == EventName.STOP:
        held.pop()
    return bool(held) and held[-1] == EventName.SIGNING_ENDED


def _last_names(path: Path, seq: int) -> list[str]:
    """Return what the last two lines up to `seq` are called, headers and damaged ones left out."""
    lines = read_raw_lines(path)
    try:
        header = parse_line(next(lines, b""))
    except DamagedLineError:
        return []
    names = []
    # WHY by count: to read each line of a segment takes a second, and two are asked for.
    for raw in deque(islice(lines, seq - header.seq), maxlen=2):
        try:
            line = parse_line(raw)
        except DamagedLineError:
            continue
        if line.seq <= seq and line.document.get("kind") != Kind.SEGMENT:
            names.append(str(line.document.get("event", "")))
    return names


def _until(folder: Path, seq: int) -> list[Path]:
    """Return the segments that begin at line `seq` or before it."""
    found = []
    for _, path in list_segments(folder):
        try:
            header = parse_line(next(read_raw_lines(path), b""))
        except DamagedLineError:
            continue
        if header.seq > seq:
            break
        found.append(path)
    return found
