"""Reading the record back: documents in the order they were written."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from audit.chain import list_segments, parse_line, read_raw_lines
from audit.errors import AuditReadError, DamagedLineError
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

    A line that does not hold its own hash is not believed and left out: verify
    the log beside reading it, the report names every such line.

    Raises:
        AuditReadError: the path holds no log, or cannot be read.
    """
    try:
        files = [path] if path.is_file() else [file for _, file in list_segments(path)]
        if not files:
            raise AuditReadError(f"`{path}` holds no audit log")
        for file in files:
            for raw in read_raw_lines(file):
                document = _document(raw)
                if document is None or document.get("kind") not in kinds:
                    continue
                if _time_of(document) in range:
                    yield document
    except OSError as exc:
        raise AuditReadError(f"`{path}` cannot be read: {exc.strerror}") from exc


def count_lines(path: Path) -> int:
    """Return how many lines a folder (or one segment) holds, damaged ones included.

    Raises:
        AuditReadError: the path cannot be read.
    """
    try:
        files = [path] if path.is_file() else [file for _, file in list_segments(path)]
        return sum(1 for file in files for _ in read_raw_lines(file))
    except OSError as exc:
        raise AuditReadError(f"`{path}` cannot be read: {exc.strerror}") from exc


def _document(raw: bytes) -> dict[str, Any] | None:
    try:
        return parse_line(raw).document
    except DamagedLineError:
        return None


def _time_of(document: dict[str, Any]) -> str:
    at = document.get("decided_at") or document.get("at") or document.get("created_at")
    return at if isinstance(at, str) else ""
