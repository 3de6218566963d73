"""The audit chain's lines from its end, and on from one of them, as events."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from audit.chain import COMPRESSED, list_segments, parse_line, read_raw_lines
from audit.errors import DamagedLineError

_BLOCK_BYTES: Final = 256 * 1024
Event = Mapping[str, Any]
"""A line of the kind `event`."""


def events_from_end(folder: Path, holding: Sequence[bytes]) -> Iterator[tuple[int, Event]]:
    """Yield the events whose line holds one of some bytes, the newest first, with their segment.

    Raises:
        OSError: the folder cannot be read.
    """
    for number, path in reversed(list_segments(folder)):
        # What comes last was mostly written by the process before, and is looked for first.
        lines = _from_end(path) if not path.name.endswith(COMPRESSED) else _reversed(path)
        for event in _parsed(raw for raw in lines if any(each in raw for each in holding)):
            yield number, event


def events_after(folder: Path, segment: int, seq: int) -> Iterator[Event]:
    """Yield the events after line `seq`, which stands in `segment`, in their order.

    Raises:
        OSError: the folder cannot be read.
    """
    for number, path in list_segments(folder):
        if number >= segment:
            yield from (event for event in _parsed(read_raw_lines(path)) if event["seq"] > seq)


def _reversed(path: Path) -> Iterable[bytes]:
    """Return the lines of a segment, the last first."""
    return reversed(list(read_raw_lines(path)))


def _from_end(path: Path) -> Iterator[bytes]:
    """Yield the lines of a segment that is not compressed, the last first."""
    with path.open("rb") as file:
        at, rest = file.seek(0, os.SEEK_END), b""
        while at:
            size = min(_BLOCK_BYTES, at)
            at = file.seek(at - size)
            first, *whole = (file.read(size) + rest).splitlines(keepends=True)
            yield from reversed(whole)
            # Its beginning may stand in the block before.
            rest = first
        if rest:
            yield rest


def _parsed(lines: Iterable[bytes]) -> Iterator[Event]:
    """Yield the events among lines; a line that does not hold its own hash says nothing."""
    for raw in lines:
        try:
            document = parse_line(raw).document
        except DamagedLineError:
            continue
        if document.get("kind") == "event":
            yield document
