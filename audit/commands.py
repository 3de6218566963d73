"""What the command line calls: verify a log, export a log. Texts go to `out`, never to a logger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final, TextIO

from audit.errors import AuditQueryError
from audit.export import csv, html, jsonl
from audit.reader import read_records
from audit.time_range import parse_range
from audit.verify import VerifyReport, verify_folder

EXIT_INTACT: Final = 0
EXIT_BROKEN: Final = 1
FORMATS: Final[Mapping[str, Callable[..., int]]] = MappingProxyType(
    {"jsonl": jsonl.export, "csv": csv.export, "html": html.export}
)
_SHOWN: Final = 50
_TITLE: Final = "Meshwarden decisions"


def run_verify(path: Path, out: TextIO) -> int:
    """Write what is true of the log and return 0 (intact) or 1 (broken).

    Raises:
        AuditReadError: there is no log to verify (the command line exits with 2).
    """
    report = verify_folder(path)
    out.write(render_report(report))
    return EXIT_INTACT if report.intact else EXIT_BROKEN


def render_report(report: VerifyReport) -> str:
    """Return the report as text: the verdict first, then each break, then notes."""
    verdict = "intact" if report.intact else f"BROKEN in {_plural(report.problem_count, 'place')}"
    lines = [
        f"{report.path}: {verdict}",
        f"  {_plural(report.lines, 'line')} in {_plural(report.segments, 'segment')}: "
        f"{_plural(report.decisions, 'decision')}, {_plural(report.events, 'event')}",
        f"  from {report.first_at or '?'} to {report.last_at or '?'}",
        f"  last hash {report.last_hash or '?'} at seq {report.last_seq}",
    ]
    lines += [f"  ✗ {problem}" for problem in report.problems[:_SHOWN]]
    if report.problem_count > _SHOWN:
        lines.append(f"  … and {report.problem_count - _SHOWN} more")
    lines += [f"  note: {note}" for note in report.notes]
    return "\n".join(lines) + "\n"


def run_export(
    path: Path,
    out: TextIO,
    *,
    format: str,
    now: datetime,
    since: str | None = None,
    until: str | None = None,
) -> int:
    """Write the decisions of a time range and return how many. `out` is UTF-8, newline="".

    Raises:
        AuditQueryError: the format or a time cannot be understood.
        AuditReadError: the path holds no log, or cannot be read.
    """
    export = FORMATS.get(format)
    if export is None:
        raise AuditQueryError(f"`{format}` is no format: expected one of {', '.join(FORMATS)}")
    range = parse_range(since, until, now=now)
    verification = verify_folder(path) if format == "html" else None
    return export(
        read_records(path, range=range), out, title=_TITLE, range=range, verification=verification
    )


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
