"""Exports: what was decided, or a report about it, from a log into a file or a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TextIO

from audit.column_files import Chain, Progress
from audit.column_store import ColumnStore
from audit.errors import AuditQueryError
from audit.export import csv, forms, html, parquet, print
from audit.export import json as json_export
from audit.export.manifest import LogState, state_of
from audit.logs import find_logs
from audit.query import Query
from audit.query_engine import LogQueries
from audit.report import TITLES, Grant, Report, Verification
from audit.report_build import build_report
from audit.shortfall import Shortfall
from audit.signed_note import NoteVerifier
from audit.time_range import TimeRange
from audit.verify import verify_folder

DECISIONS: Final = "decisions"
Records = Iterable[Mapping[str, Any]]
Stage = Callable[[str], Progress]
"""Told what is done next, it returns who is told how far that is."""
_TEXT_FORMS: Final[Mapping[str, Callable[[Report, TextIO], None]]] = MappingProxyType(
    {
        "csv": forms.write_csv,
        "json": forms.write_json,
        "jsonl": forms.write_jsonl,
        "html": html.write_html,
        "md": forms.write_markdown,
    }
)
FORMATS: Final = ("csv", "json", "jsonl", "parquet", "html", "pdf", "md")
FILE_FORMATS: Final = ("parquet", "pdf")
"""Forms that are no text: they need a file."""
_LISTS: Final = ("csv", "json", "jsonl", "parquet")
_TABLES: Final = ("csv", "jsonl", "parquet")  # of one kind of row: all decisions unless told


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What is wanted: which sections (none named: all, or every decision), in which form.

    `is_attested` asks for the state of the logs too, for a manifest.
    """

    log: Path
    format: str
    range: TimeRange = TimeRange()  # immutable
    names: tuple[str, ...] = ()
    grants: tuple[Grant, ...] | None = None
    verifier: NoteVerifier | None = None
    is_attested: bool = False

    @property
    def lists_decisions(self) -> bool:
        """Whether it is every decision, one by one, and no report."""
        if self.names:
            return self.names == (DECISIONS,) and self.format in _LISTS
        return self.format in _TABLES

    @property
    def reports(self) -> tuple[str, ...]:
        """The names of what is in it."""
        return self.names or ((DECISIONS,) if self.lists_decisions else tuple(TITLES))


@dataclass(frozen=True, slots=True)
class Exported:
    """How many decisions were exported or counted, and the logs' states where they were asked.

    `shortfall` is what the file leaves out.
    """

    count: int
    logs: tuple[LogState, ...] = ()
    shortfall: Shortfall = field(default_factory=Shortfall)


def run_export(
    wanted: Export,
    out: Path | TextIO,
    *,
    store: ColumnStore | None = None,
    stage: Stage = lambda _what: lambda _done, _whole: None,
) -> Exported:
    """Write an export into a file or a text stream (UTF-8, newline="").

    Raises:
        AuditQueryError: what is wanted cannot be had in this form.
        AuditReadError: the log or its columns cannot be read.
        OSError: the file cannot be written.
    """
    if wanted.format not in FORMATS:
        raise AuditQueryError(
            f"`{wanted.format}` is no format: expected one of {', '.join(FORMATS)}"
        )
    if wanted.format in FILE_FORMATS and not isinstance(out, Path):
        raise AuditQueryError(f"`{wanted.format}` is no text: it needs a file")
    is_verified = wanted.is_attested or not wanted.lists_decisions
    with LogQueries(
        [wanted.log],
        since=wanted.range.since,
        store=store,
        chain=_chain(wanted) if is_verified else Chain.UNASKED,
        writes=out if isinstance(out, Path) else None,
        progress=stage("reading the record"),
    ) as queries:
        # WHY first: a segment that is compressed later on would have the report asked for again.
        shortfall = Shortfall.of(queries, wanted.range)
        verification = _verified(wanted, queries) if is_verified else Verification(())
        if wanted.lists_decisions:
            count = _write_decisions(wanted, queries, out, stage("writing decisions"))
        else:
            report = build_report(
                queries,
                Query(range=wanted.range),
                names=wanted.names,
                verification=verification,
                grants=wanted.grants,
                tell=stage("counting decisions"),
            )
            _write_report(wanted, report, out)
            count = report.overview.total
        logs: tuple[LogState, ...] = ()
        if wanted.is_attested:
            pairs = zip(find_logs(wanted.log), verification.reports, strict=True)
            logs = tuple(state_of(log, found, queries.chained) for log, found in pairs)
    return Exported(count, logs, shortfall)


def _chain(wanted: Export) -> Chain:
    """Return what is enough to verify by: who signs for a log has read it."""
    return Chain.READ if wanted.is_attested else Chain.NOTED


def _verified(wanted: Export, queries: LogQueries) -> Verification:
    reports = [
        verify_folder(log, verifier=wanted.verifier, chained=queries.chained)
        for log in find_logs(wanted.log)
    ]
    return Verification(tuple(reports), queries.noted)


def _write_report(wanted: Export, report: Report, out: Path | TextIO) -> None:
    if not isinstance(out, Path):
        _TEXT_FORMS[wanted.format](report, out)
    elif wanted.format == "parquet":
        parquet.write_parquet(report, out)
    elif wanted.format == "pdf":
        out.write_bytes(print.write_pdf(report))
    else:
        with out.open("w", encoding="utf-8", newline="") as file:
            _TEXT_FORMS[wanted.format](report, file)


def _write_decisions(
    wanted: Export, queries: LogQueries, out: Path | TextIO, tell: Progress
) -> int:
    query = Query(range=wanted.range)
    if wanted.format == "parquet" and isinstance(out, Path):
        return queries.copy_decisions(query, out)
    records = _told(queries.records(query), queries.count(query), tell)
    if not isinstance(out, Path):
        return _write_list(wanted, records, out)
    with out.open("w", encoding="utf-8", newline="") as file:
        return _write_list(wanted, records, file)


def _write_list(wanted: Export, records: Records, out: TextIO) -> int:
    if wanted.format == "csv":
        return csv.write_decisions(records, out)
    if wanted.format == "jsonl":
        return json_export.write_lines(records, out)
    return json_export.write_object(records, out, range=str(wanted.range))


def _told(records: Records, whole: int, tell: Progress) -> Iterator[Mapping[str, Any]]:
    for done, record in enumerate(records):
        if done % 10_000 == 0:
            tell(done, whole)
        yield record
    tell(whole, whole)
