"""What of the record may go: the oldest segments, once they were signed and every sink has them.

The deletion stands on record before anything is deleted: a `segments_removed` event says which
segments went and where the chain stood at their end. The checkpoint and the frontier of the last
of them stay: from these the tree of what is left begins (docs/decisions/0019), and so
`audit verify` can tell a beginning that was retained away from one that was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit.chain import list_segments, parse_line, read_last_line, read_raw_lines
from audit.checkpoint_files import checkpoint_name, frontier_name
from audit.document import format_time
from audit.errors import DamagedLineError
from audit.logs import COLUMNS
from audit.reader import time_of
from audit.settings import RetentionSettings
from audit.whole_file import sync_folder

_DAY_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Removal:
    """The segments to remove, oldest first, and what the record says of it."""

    segments: tuple[tuple[int, Path], ...]
    details: dict[str, Any]


def find_removal(
    folder: Path,
    settings: RetentionSettings,
    *,
    now: float,
    open_segment: int,
    acknowledged: float,
) -> Removal | None:
    """Return what is to be removed now, or None.

    `open_segment` is being written; sinks have all segments before `acknowledged`.

    Raises:
        OSError: the folder cannot be read.
    """
    segments = list_segments(folder)
    free = [each for each in segments if each[0] < min(open_segment, acknowledged)]
    excess = sum(path.stat().st_size for _, path in segments) - settings.max_bytes
    limit = format_time(now - settings.max_age_days * _DAY_SECONDS)
    found, why = list[tuple[int, Path]](), set[str]()
    for (number, path), (_, following) in zip(free, segments[1:], strict=False):
        is_large = bool(settings.max_bytes) and excess > 0
        is_old = bool(settings.max_age_days) and _is_closed_before(following, limit)
        if not (is_large or is_old) or not _is_signed(folder, number):
            break
        why |= {name for name, holds in (("bytes", is_large), ("age", is_old)) if holds}
        excess -= path.stat().st_size
        found.append((number, path))
    end = _end_of(found[-1][1]) if found else None
    if end is None:
        return None
    about = {"first_segment": found[0][0], "last_segment": found[-1][0], "why": sorted(why)}
    return Removal(tuple(found), about | end)


def remove(folder: Path, removal: Removal) -> None:
    """Delete the segments, oldest first, with all that stands beside each of them.

    Raises:
        OSError: not all of them could be deleted; those that could are gone.
    """
    for number, path in removal.segments:
        path.unlink(missing_ok=True)
        _remove_beside(folder, number, (checkpoint_name(number), frontier_name(number)))
        # WHY only now: whatever ends this, the newest that went still tells where the rest begins.
        _remove_beside(folder, number - 1, ())
        sync_folder(folder)


def _remove_beside(folder: Path, number: int, kept: Sequence[str]) -> None:
    """Remove what bears a segment's number: its checkpoint, its digest, columns made of it."""
    # WHY hidden ones: those are parts of files that a process was killed at.
    names = (f"audit-{number:08d}.*", f".audit-{number:08d}.*")
    found = [path for name in names for path in folder.glob(name)]
    found += [path for name in names for path in folder.glob(f"{COLUMNS}/{name}")]
    for path in found:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _is_signed(folder: Path, number: int) -> bool:
    names = (checkpoint_name(number), frontier_name(number))
    return all((folder / name).is_file() for name in names)


def _is_closed_before(following: Path, limit: str) -> bool:
    """Whether a segment was closed before a time: its successor was begun then."""
    try:
        document = parse_line(next(read_raw_lines(following), b"")).document
    except DamagedLineError:
        return False
    return time_of(document) < limit


def _end_of(path: Path) -> dict[str, Any] | None:
    """Return where the chain stood at a segment's end; None where its last line is damaged."""
    try:
        line = parse_line(read_last_line(path))
    except DamagedLineError:
        return None
    return {"last_seq": line.seq, "last_hash": line.hash}
