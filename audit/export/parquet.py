"""A section of a report as a Parquet file. Decisions are written by the engine that found them."""

from __future__ import annotations

from pathlib import Path

from audit.database import duckdb
from audit.errors import AuditQueryError
from audit.query_columns import quote
from audit.report import Report, Section


def write_parquet(report: Report, file: Path) -> None:
    """Write the one section of the report; its columns bear the section's names.

    Raises:
        AuditQueryError: the report has several sections, which have different columns.
    """
    if len(report.sections) != 1:
        raise AuditQueryError("Parquet takes one report at a time: name it with `--report`")
    section = report.sections[0]
    columns = ", ".join(
        f'"{name}" {_type(section, place)}' for place, name in enumerate(section.columns)
    )
    with duckdb.connect() as engine:
        engine.execute(f"CREATE TABLE section ({columns})")
        if section.rows:
            marks = ", ".join("?" for _ in section.columns)
            engine.executemany(f"INSERT INTO section VALUES ({marks})", section.rows)  # noqa: S608
        engine.execute(f"COPY section TO {quote(str(file))} (FORMAT parquet, COMPRESSION zstd)")


def _type(section: Section, place: int) -> str:
    is_count = all(isinstance(row[place], int) for row in section.rows)
    return "BIGINT" if is_count and section.rows else "VARCHAR"
