"""Reading the record back: documents in the order they were written, of several logs by time."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from audit.chain import list_segments, parse_line, read_raw_lines
from audit.errors import AuditReadError, DamagedLineError
from audit.logs import find_logs
from audit.record import Kind
from audit.time_range import TimeRange

_DECISIONS = frozenset({Kind.DECISION.value})


def read_records(
    path: Path,
    *,
    range: TimeRange = TimeRange(),  # noqa: B008 - immutable
    kinds: Collection[str] = _DECISIONS,
) -> Iterator[dict[str, Any]]:
    """Yield the documents of a folder (or one segment) whose time is in the range.

    Of several workers' logs the documents come merged by time. A line that does not hold its
    own hash is not believed and left out: verify the log beside reading it, the report names
    every such line.

    Raises:
        AuditReadError: the path holds no log, or cannot be read.
    """
    logs = [_documents(log, kinds) for log in find_logs(path)]
    found = logs[0] if len(logs) == 1 else heapq.merge(*logs, key=time_of)
    try:
        for document in found:
            if time_of(document) in range:
                yield document
    except OSError as exc:
        raise AuditReadError(f"`{path}` cannot be read: {exc.strerror}") from exc


def count_lines(path: Path) -> int:
    """Return how many lines a folder (or one segment) holds, damaged ones included.

    Raises:
        AuditReadError: the path holds no log, or cannot be read.
    """
    try:
        return sum(
            1 for log in find_logs(path) for file in _files(log) for _ in read_raw_lines(file)
        )
    except OSError as exc:
        raise AuditReadError(f"`{path}` cannot be read: {exc.strerror}") from exc


def time_of(document: dict[str, Any]) -> str:
    """Return when a line's decision or event was, as it is written; empty where it tells none."""
    at = document.get("decided_at") or document.get("at") or document.get("created_at")
    return at if isinstance(at, str) else ""


def _files(log: Path) -> Iterable[Path]:
    return [log] if log.is_file() else [file for _, file in list_segments(log)]


def _documents(log: Path, kinds: Collection[str]) -> Iterator[dict[str, Any]]:
    for file in _files(log):
        for raw in read_raw_lines(file):
            document = _document(raw)
            if document is not None and document.get("kind") in kinds:
                yield document


def _document(raw: bytes) -> dict[str, Any] | None:
    try:
        return parse_line(raw).document
    except DamagedLineError:
        return None
