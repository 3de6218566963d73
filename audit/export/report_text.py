"""A report as CSV, JSON, JSON lines, Markdown, or one HTML page."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any, Final, TextIO

from markupsafe import Markup

from audit.errors import AuditQueryError
from audit.export.csv import safe_cell
from audit.export.html import make_visible, page_environment, read_template, source_hash
from audit.report import Report, Section
from audit.report_build import as_rows

_MARKDOWN: Final = str.maketrans(
    {sign: f"\\{sign}" for sign in "\\`*_{}[]()#!|~"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)


def write_csv(report: Report, out: TextIO) -> None:
    """Write the one section of the report as a row of names and its rows.

    Raises:
        AuditQueryError: the report has several sections, which have different columns.
    """
    if len(report.sections) != 1:
        raise AuditQueryError("CSV takes one report at a time: name it with `--report`")
    section = report.sections[0]
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(section.columns)
    writer.writerows([safe_cell(cell) for cell in row] for row in section.rows)


def write_json(report: Report, out: TextIO) -> None:
    """Write the report as one JSON object: the range, the days, each section with its rows."""
    json.dump(
        {
            "title": report.title,
            "range": report.range,
            "intact": report.verification.intact,
            "days": [asdict(day) for day in report.days],
            "sections": [_section_object(section) for section in report.sections],
        },
        out,
        indent=2,
    )
    out.write("\n")


def _section_object(section: Section) -> dict[str, Any]:
    return {
        "name": section.name,
        "title": section.title,
        "question": section.question,
        "controls": list(section.controls),
        "notes": list(section.notes),
        "empty": "" if section.rows else section.empty,
        "rows": as_rows(section),
    }


def write_jsonl(report: Report, out: TextIO) -> None:
    """Write each row of each section as one JSON object, its section in `report`."""
    for section in report.sections:
        for row in as_rows(section):
            out.write(json.dumps({"report": section.name, **row}, separators=(",", ":")) + "\n")


def write_markdown(report: Report, out: TextIO) -> None:
    """Write the report as Markdown, the signs of strangers' texts without their meaning."""
    verdict = "intact" if report.verification.intact else "**BROKEN**"
    out.write(f"# {_plain(report.title)}\n\n")
    out.write(f"- Range: {_plain(report.range)}\n- Record: {verdict}\n")
    out.write(f"- Decisions: {report.allowed} allowed, {report.denied} denied\n")
    for section in report.sections:
        out.write(f"\n## {section.title}\n\n{section.question}\n\n")
        if section.rows:
            out.write("| " + " | ".join(map(_name, section.columns)) + " |\n")
            out.write("|" + " --- |" * len(section.columns) + "\n")
            for row in section.rows:
                out.write("| " + " | ".join(map(_plain, row)) + " |\n")
        else:
            out.write(f"{section.empty}\n")
        for note in section.notes:
            out.write(f"\n*Note: {_plain(note)}.*\n")
        if section.controls:
            out.write(f"\n*Controls: {_plain(', '.join(section.controls))}*\n")


def _name(column: str) -> str:
    return column.replace("_", " ")


def _plain(value: object) -> str:
    # Some readers make links of bare addresses, which here are strangers'.
    shown = make_visible(value).translate(_MARKDOWN)
    return shown.replace("://", "\\://").replace("www.", "www\\.")


def write_html(report: Report, out: TextIO) -> None:
    """Write the report as one page that fetches nothing and runs nothing."""
    style = read_template("report.css") + read_template("sections.css")
    page = page_environment().get_template("sections.html.j2")
    out.writelines(
        page.generate(
            report=report,
            busiest=max((day.allowed + day.denied for day in report.days), default=1) or 1,
            style=Markup(style),  # noqa: S704 - our own files
            style_hash=source_hash(style),
        )
    )


REPORT_FORMATS: Final[Mapping[str, Callable[[Report, TextIO], None]]] = MappingProxyType(
    {
        "csv": write_csv,
        "json": write_json,
        "jsonl": write_jsonl,
        "md": write_markdown,
        "html": write_html,
    }
)
