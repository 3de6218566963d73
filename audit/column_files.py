"""Column files: what questions are asked of, made of a segment once and kept beside it.

Theory of operation. A segment's columns stand in a Parquet file whose name holds the SHA-256 of
the segment, which is taken anew for each question: a segment that was changed never answers from
columns that were made before. Beside it a note says how the segment is chained. What is missing
is made; a segment that may still grow, and one in a folder that cannot be written, gets its columns
in a folder of this process alone. Segments are read in processes of their own, as many as there are
cores, where there is much to read.
"""

from __future__ import annotations

import atexit
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from audit.chain import COMPRESSED, read_raw_lines
from audit.column_store import ColumnStore, Segment, forget_parts
from audit.database import duckdb
from audit.errors import AuditReadError
from audit.query_columns import escape_glob, quote, select_columns
from audit.segment_scan import ChainedSegment, digest_of, parse_chained, scan_segment
from audit.whole_file import replace_file

Progress = Callable[[int, int], None]
"""Called with the bytes that were read and those that will be, as segments are done."""
_MODE: Final = 0o640
_MUCH: Final = 256 * 1024 * 1024  # BUDGET: bytes that are sooner read than processes started
_MAGIC: Final = b"PAR1"
_ENGINE_MEMORY: Final = "1GB"  # BUDGET: of each engine that makes columns


@dataclass(frozen=True, slots=True)
class Columns:
    """A segment's columns, and the SHA-256 of the segment that they were made of.

    `chained` is told where it was asked for: that every line is a link of the chain, and JSON;
    `is_noted` where that was read from the note, and the lines not read again. `is_broken`:
    it grows no more, and not every line is a link of the chain, so that questions miss some.
    """

    segment: Path
    file: Path
    digest: str
    chained: ChainedSegment | None = None
    is_noted: bool = False
    is_broken: bool = False


class Chain(Enum):
    """Whether it is asked how segments are chained, and what is enough to know it by."""

    UNASKED = "unasked"
    NOTED = "noted"
    READ = "read"


def open_columns(
    segments: Sequence[Segment],
    store: ColumnStore,
    *,
    chain: Chain = Chain.UNASKED,
    progress: Progress | None = None,
) -> list[Columns]:
    """Return the columns of segments, in their order; those that are missing are made.

    To read the chain anew is to make columns anew too, unless they are kept in a folder of one's
    own: whoever writes the log can put columns beside it that tell something else.

    Raises:
        AuditReadError: a segment cannot be read, or its columns cannot be written anywhere.
    """
    tell = progress or (lambda _done, _whole: None)
    try:
        digests = _digests([segment.path for segment in segments])
        found: dict[Path, Columns] = {}
        wanted: list[_Task] = []
        for segment, digest in zip(segments, digests, strict=True):
            file = store.file_of(segment, digest)
            is_believed = chain is not Chain.READ or store.folder is not None
            is_there = is_believed and _is_whole(file)
            noted = _read_note(file) if is_there and chain is Chain.NOTED else None
            if is_there and (chain is Chain.UNASKED or noted is not None):
                known = Columns(
                    segment.path,
                    file,
                    digest,
                    noted,
                    is_noted=noted is not None,
                    # WHY by its absence: who makes columns notes what is chained, and only that.
                    is_broken=segment.is_sealed and not _note_of(file).is_file(),
                )
                found[segment.path] = known
            else:
                is_held = is_there or (is_believed and _can_hold(file.parent))
                target = file if is_held else store.scratch.folder() / file.name
                is_kept = not store.scratch.holds(target)
                is_read = chain is not Chain.UNASKED
                wanted.append(_Task(segment, target, digest, is_kept, is_read))
        for folder in {task.file.parent for task in wanted if task.is_kept}:
            forget_parts(folder)
        for columns in _made(wanted, tell):
            found[columns.segment] = columns
    except OSError as exc:
        raise AuditReadError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc
    except duckdb.Error as exc:
        why = str(exc).partition("\n")[0]
        raise AuditReadError(f"the columns of the log cannot be made: {why}") from exc
    return [found[segment.path] for segment in segments]


@dataclass(frozen=True, slots=True)
class _Task:
    segment: Segment
    file: Path
    digest: str
    is_kept: bool
    is_chain_read: bool


def _digests(files: Sequence[Path]) -> list[str]:
    """Return the digests of files, as many at a time as there are cores."""
    with ThreadPoolExecutor(_cores()) as threads:
        return list(threads.map(digest_of, files))


def _made(tasks: Sequence[_Task], tell: Progress) -> Iterator[Columns]:
    sizes = {task.segment.path: task.segment.path.stat().st_size for task in tasks}
    whole, done = sum(sizes.values()), 0
    for columns in _each_made(tasks, is_much=whole > _MUCH):
        done += sizes[columns.segment]
        tell(done, whole)
        yield columns


def _each_made(tasks: Sequence[_Task], *, is_much: bool) -> Iterator[Columns]:
    if not is_much or len(tasks) == 1:
        yield from map(_make, tasks)
        return
    with _processes(min(_cores(), len(tasks))) as pool:
        yield from (done.result() for done in as_completed([pool.submit(_make, t) for t in tasks]))


@contextmanager
def _processes(count: int) -> Iterator[Executor]:
    """Give as many processes; what they have not begun is given up when one of them fails."""
    # WHY spawned: a fork of a process with threads may hold a lock that nobody opens.
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _make(task: _Task) -> Columns:
    """Read one segment: make its columns where there are none, and look at its chain if asked."""
    path, file = task.segment.path, task.file
    has_columns = _is_whole(file)
    chained = None
    if task.segment.is_sealed and (task.is_chain_read or not has_columns):
        chained = scan_segment(path)
    if not has_columns:
        _write_columns(task, is_plain=chained is not None)
    if chained is not None and _readable_lines(file) != chained.lines:
        chained = None
    if chained is not None and not has_columns:
        replace_file(_note_of(file), chained.to_json().encode("ascii"))
    is_broken = task.segment.is_sealed and chained is None
    shown = chained if task.is_chain_read else None
    return Columns(path, file, task.digest, shown, is_broken=is_broken)


def _note_of(file: Path) -> Path:
    return file.with_suffix(".json")


def _read_note(file: Path) -> ChainedSegment | None:
    """Return what was noted of a segment when its columns were made; None where nothing was."""
    try:
        return parse_chained(_note_of(file).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _write_columns(task: _Task, *, is_plain: bool) -> None:
    """Write a segment's column file, whole or not at all.

    Raises:
        AuditReadError: a sealed segment was changed while it was read.
    """
    part = task.file.with_name(f".{task.file.name}.{os.getpid()}.part")
    try:
        try:
            _copy_columns(task.segment.path, part, is_plain=is_plain)
        except duckdb.Error:
            if not task.segment.path.name.endswith(COMPRESSED):
                raise
            _copy_readable_columns(task.segment.path, part)
        if task.segment.is_sealed and digest_of(task.segment.path) != task.digest:
            raise AuditReadError(f"`{task.segment.path}` was changed while it was read")
        part.chmod(_MODE)
        part.replace(task.file)
        if task.is_kept:
            _forget_older(task)
    finally:
        part.unlink(missing_ok=True)


@cache
def _maker() -> duckdb.DuckDBPyConnection:
    """Return the engine that makes this process's columns; each use takes a cursor of it."""
    return duckdb.connect(config={"threads": 1, "memory_limit": _ENGINE_MEMORY})


@atexit.register
def let_go_of_engine() -> None:
    """Close the engine that made columns; the next ones open another.

    WHY: one that is open keeps 50 MB and more of what it took for a segment.
    """
    if _maker.cache_info().currsize:
        _maker().close()
        _maker.cache_clear()


def _copy_columns(segment: Path, target: Path, *, is_plain: bool) -> None:
    with _maker().cursor() as engine:
        engine.execute(
            f"COPY ({select_columns(segment, is_plain=is_plain)}) "
            f"TO {quote(str(target))} (FORMAT parquet, COMPRESSION zstd)"
        )


def _copy_readable_columns(segment: Path, target: Path) -> None:
    """Make the columns of what can still be read of a compressed segment that was damaged."""
    plain = target.with_name(target.name + ".lines")
    try:
        with plain.open("wb") as file:
            file.writelines(read_raw_lines(segment))
        _copy_columns(plain, target, is_plain=False)
    finally:
        plain.unlink(missing_ok=True)


def _forget_older(task: _Task) -> None:
    """Remove what was made of a segment before it was changed, or by an older version."""
    for file in task.file.parent.glob(f"{glob.escape(task.segment.path.name)}.*"):
        if file.stem != task.file.stem:
            file.unlink(missing_ok=True)


def _readable_lines(file: Path) -> int:
    """Return how many rows of a column file were made of a JSON object of a known kind."""
    with _maker().cursor() as engine:
        row = engine.execute(
            f"SELECT count(*) FROM read_parquet({quote(escape_glob(str(file)))}) "  # noqa: S608
            "WHERE kind IN ('segment', 'decision', 'event')"
        ).fetchone()
    return int(row[0]) if row else 0


def _is_whole(file: Path) -> bool:
    """Whether a column file is there and not cut off."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(_MAGIC))
            opened.seek(-len(_MAGIC), os.SEEK_END)
            return begin == opened.read() == _MAGIC
    except OSError:
        return False


def _can_hold(folder: Path) -> bool:
    """Whether column files can be written into a folder, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
