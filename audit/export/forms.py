"""A report as CSV, JSON, JSON lines or Markdown."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final, TextIO

from audit.errors import AuditQueryError
from audit.export.csv import write_rows
from audit.export.visible import make_visible
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
    write_rows(section.columns, section.rows, out)


def write_json(report: Report, out: TextIO) -> None:
    """Write the report as one JSON object: the range, the overview, each section with its rows."""
    json.dump(
        {
            "title": report.title,
            "range": report.range,
            "intact": report.verification.intact,
            "overview": {
                "decisions": report.overview.total,
                "allowed": report.overview.allowed,
                "denied": report.overview.denied,
                **asdict(report.overview),
            },
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
    if report.verification.is_only_unsigned:
        verdict = "**SIGNATURES MISSING**, its chain is intact"
    out.write(f"# {_plain(report.title)}\n\n")
    out.write(f"- Range: {_plain(report.range)}\n- Record: {verdict}\n")
    seen = report.overview
    out.write(f"- Decisions: {seen.allowed} allowed, {seen.denied} denied\n")
    out.write(f"- Callers: {seen.callers_count}, workloads: {seen.workloads_count}\n")
    out.write(f"- Without a peer: {seen.anonymous}, failed open: {seen.failed_open}\n")
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
