"""Which segments a log has, and where their columns are kept; nothing here reads or makes them."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from audit.chain import list_segments
from audit.folder_lock import is_being_written
from audit.logs import COLUMNS
from audit.query_columns import VERSION

_DIGITS: Final = 32
_UNFINISHED_SECONDS: Final = 3600.0  # BUDGET: far longer than the columns of a segment take to make


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment to ask; `is_sealed` where it grows no more."""

    path: Path
    is_sealed: bool


class Scratch:
    """A folder of this process alone, made when it is first asked for.

    WHY not before: nothing is kept there mostly, and a process that is killed leaves it behind.
    """

    def __init__(self) -> None:
        """Make none yet."""
        self._made: TemporaryDirectory[str] | None = None

    def folder(self) -> Path:
        """Return the folder."""
        if self._made is None:
            self._made = TemporaryDirectory(prefix="meshwarden-")
        return Path(self._made.name)

    def holds(self, file: Path) -> bool:
        """Return whether `file` is one of the folder's."""
        return self._made is not None and file.parent == self.folder()

    def close(self) -> None:
        """Remove it with all that is in it."""
        made, self._made = self._made, None
        if made is not None:
            made.cleanup()


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnStore:
    """Where columns are kept: beside each log, in `folder` for all of them, or not at all."""

    is_kept: bool = True
    folder: Path | None = None
    scratch: Scratch = field(default_factory=Scratch)

    def close(self) -> None:
        """Remove what is not kept."""
        self.scratch.close()

    def file_of(self, segment: Segment, digest: str) -> Path:
        """Return the column file of a segment with that digest, whether there is one or not."""
        name = f"{segment.path.name}.{digest[:_DIGITS]}.{VERSION}.parquet"
        if not (self.is_kept and segment.is_sealed):
            return self.scratch.folder() / name
        return self.folder_of(segment.path.parent) / name

    def folder_of(self, log: Path) -> Path:
        """Return where the columns of a log are kept."""
        if self.folder is None:
            return log / COLUMNS
        return self.folder / hashlib.sha256(os.fsencode(log.absolute())).hexdigest()[:_DIGITS]


def segments_of(log: Path) -> list[Segment]:
    """Return the segments of one log: a folder, or one segment on its own.

    Raises:
        OSError: the folder cannot be read.
    """
    folder = log.parent if log.is_file() else log
    files = [file for _, file in list_segments(folder)]
    is_open = is_being_written(folder)
    found = [Segment(file.absolute(), not is_open or file != files[-1]) for file in files]
    if not log.is_file():
        return found
    return [each for each in found if each.path == log.absolute()] or [
        Segment(log.absolute(), is_sealed=False)
    ]


def forget_columns(log: Path, store: ColumnStore) -> int:
    """Remove the kept columns of segments that are gone; return how many.

    Raises:
        OSError: a folder cannot be read.
    """
    folder = store.folder_of(log)
    if not folder.is_dir():
        return 0
    forget_parts(folder)
    there = {file.name for _, file in list_segments(log)}
    gone = [file for file in folder.glob("audit-*") if _segment_name(file) not in there]
    for file in gone:
        file.unlink(missing_ok=True)
    return len(gone)


def forget_parts(folder: Path) -> None:
    """Remove what makers of columns left unfinished that were killed.

    WHY by age: they may run on another host, or in another container, where their number tells
    nothing here.

    Raises:
        OSError: the folder cannot be read.
    """
    limit = time.time() - _UNFINISHED_SECONDS
    for file in (*folder.glob(".audit-*.part"), *folder.glob(".audit-*.part.lines")):
        with suppress(OSError):  # another process removed it, or may and we must not
            if file.stat().st_mtime < limit:
                file.unlink()


def _segment_name(file: Path) -> str:
    """Return the name of the segment that a column file was made of."""
    return file.name.rsplit(".", maxsplit=3)[0]
