"""The end of a segment after a stop of any kind: where the chain goes on.

A process that was killed may leave a last line without its end. Those bytes are
kept beside the segment (`audit-00000003.jsonl.torn`), never thrown away, and the
chain goes on from the last whole line. A whole last line that does not hold its
own hash is left where it is, for `verify` to name.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from audit.chain import COMPRESSED, ChainState, Line, parse_line, read_last_line
from audit.errors import DamagedLineError

_BLOCK: Final = 64 * 1024
_ENDS_NEEDED: Final = 2  # the last whole line starts after the second line end from the back


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTail:
    """How a segment ends. `last` is None when its last whole line is damaged or there is none.

    `torn` are the bytes after the last line end; `size` is the segment without them.
    """

    size: int
    last: Line | None
    last_raw: bytes
    torn: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """Where writing goes on, and what a `resume` event must say (empty: nothing)."""

    state: ChainState
    in_place: bool
    details: Mapping[str, Any] = field(default_factory=dict)


def read_tail(path: Path) -> SegmentTail:
    """Return how the segment ends, reading backwards from its end.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        tail, start = b"", end
        while start > 0 and tail.count(b"\n") < _ENDS_NEEDED:
            start = max(0, start - _BLOCK)
            file.seek(start)
            tail = file.read(min(_BLOCK, end - start - len(tail))) + tail
    whole, line_end, torn = tail.rpartition(b"\n")
    if not line_end:
        return SegmentTail(size=0, last=None, last_raw=b"", torn=torn)
    raw = whole.rpartition(b"\n")[2] + b"\n"
    try:
        last = parse_line(raw)
    except DamagedLineError:
        last = None
    return SegmentTail(size=end - len(torn), last=last, last_raw=raw, torn=torn)


def keep_torn(path: Path, torn: bytes) -> Path:
    """Write the torn bytes beside the segment, under a name not yet taken; return it.

    Raises:
        OSError: they cannot be written.
    """
    number = 0
    while True:
        aside = path.with_name(path.name + (f".{number}.torn" if number else ".torn"))
        try:
            with aside.open("xb") as file:
                file.write(torn)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            number += 1
        else:
            return aside


def resume_segment(path: Path) -> Resumption:
    """Set a torn end aside and return where the chain goes on; never within a compressed segment.

    Raises:
        OSError: the segment cannot be read, or the torn bytes cannot be kept.
    """
    if path.name.endswith(COMPRESSED):
        return _after_compressed(path)
    tail = read_tail(path)
    details: dict[str, Any] = {}
    if tail.torn:
        aside = keep_torn(path, tail.torn)
        os.truncate(path, tail.size)
        details = {
            "cause": "the last line was cut off",
            "segment": path.name,
            "kept_in": aside.name,
            "torn_bytes": len(tail.torn),
            "torn_sha256": hashlib.sha256(tail.torn).hexdigest(),
        }
    if tail.last is not None:
        if not details and tail.last.document.get("event") != "stop":
            details = {"cause": "the writer before did not stop in order", "segment": path.name}
        return Resumption(state=tail.last.state, in_place=True, details=details)
    if tail.size == 0:  # nothing but a torn header: the segment never began
        return Resumption(state=ChainState(), in_place=True, details=details)
    digest = hashlib.sha256(tail.last_raw).hexdigest()
    damage = {"damaged": "the last line does not hold its own hash", "segment": path.name}
    return Resumption(
        state=ChainState(_claimed_seq(path), digest), in_place=False, details=details | damage
    )


def _after_compressed(path: Path) -> Resumption:
    """Return where the chain goes on after a segment that was closed and compressed."""
    try:
        return Resumption(state=parse_line(read_last_line(path)).state, in_place=False)
    except DamagedLineError:
        details = {"cause": "the last whole line is damaged", "segment": path.name}
        return Resumption(state=ChainState(), in_place=False, details=details)


def _claimed_seq(path: Path) -> int:
    """Return the seq a damaged segment must have reached, counted from its header."""
    with path.open("rb") as file:
        first = file.readline()
        lines = 1 + sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))
    try:
        return parse_line(first).seq + lines - 1
    except DamagedLineError:
        return lines
