"""What the linter found, for people and for the programs that show findings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.text import Text

from authz.render_findings import counted, finding_row, print_line, visible
from policies.diagnostic import Location
from policies.lint.catalogue import load_catalogue
from policies.lint.finding import LintFinding, LintSeverity
from policies.lint.run import LintResult

_STYLES = {
    LintSeverity.ERROR: "bold red",
    LintSeverity.WARNING: "bold yellow",
    LintSeverity.INFO: "bold cyan",
}
_SARIF_LEVELS = {LintSeverity.ERROR: "error", LintSeverity.WARNING: "warning",
                 LintSeverity.INFO: "note"}  # fmt: skip
_GITHUB_LEVELS = {**_SARIF_LEVELS, LintSeverity.INFO: "notice"}
_SARIF_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


# -- for people ---------------------------------------------------------------------------------


def print_lint(result: LintResult, lines: Mapping[str, Sequence[str]], console: Console) -> None:
    """Print each finding with its line, and the tally; `lines` are those of the files read."""
    for found in result.findings:
        _print_finding(found, lines, console)
    told = []
    for severity in LintSeverity:
        number = sum(found.severity is severity for found in result.findings)
        if number:
            word = "note" if severity is LintSeverity.INFO else str(severity)
            told.append(counted(number, word))
    if result.suppressed:
        told.append(f"{len(result.suppressed)} suppressed")
    if result.refuted:
        told.append(f"{result.refuted} not told: the evaluator answers otherwise")
    worst = min((found.severity for found in result.findings), key=_rank, default=None)
    style = _STYLES[worst] if worst else "bold green"
    head = Text(f"{counted(result.resources, 'resource')}: ")
    console.print(head + Text(", ".join(told) or "ok", style=style), highlight=False)


def _rank(severity: LintSeverity) -> int:
    return severity.rank


def _print_finding(
    found: LintFinding, lines: Mapping[str, Sequence[str]], console: Console
) -> None:
    style = _STYLES[found.severity]
    head = Text(f"{found.severity}[{found.code}]", style=style)
    console.print(head + Text(f": {visible(found.message)}", style="bold"), highlight=False)
    _print_place(found.location, found.resource, console)
    print_line(found.location, lines, console, style)
    if found.help:
        console.print(Text("   = ", style="blue") + Text(f"help: {visible(found.help)}"),
                      highlight=False)  # fmt: skip
    if found.witness:
        console.print(Text("   = ", style="blue") + Text(f"witness: {visible(str(found.witness))}"),
                      highlight=False)  # fmt: skip
    for each in found.related:
        console.print(Text("   = ", style="blue") + Text(visible(each.message)), highlight=False)
        _print_place(each.location, "", console)
        print_line(each.location, lines, console, "blue")
    console.print()


def _print_place(place: Location, resource: str, console: Console) -> None:
    where = Text("  --> ", style="blue") + Text(visible(str(place)))
    console.print(where + Text(f"  {visible(resource)}" if resource else "", style="dim"),
                  highlight=False)  # fmt: skip


# -- for programs -------------------------------------------------------------------------------


def render_json(result: LintResult) -> str:
    """Return one list of objects; what is unknown is 0 or empty."""
    return json.dumps([_row(found) for found in result.findings], indent=2)


def _row(found: LintFinding) -> dict[str, Any]:
    return finding_row(found) | {
        "related": [
            {
                "message": each.message,
                "file": each.location.file,
                "line": each.location.line,
                "column": each.location.column,
            }
            for each in found.related
        ],
        "witness": found.witness.document() if found.witness else None,
    }


def render_sarif(result: LintResult) -> str:
    """Return a SARIF 2.1.0 log; what was suppressed is in it, and marked."""
    every = [*result.findings, *result.suppressed]
    codes = sorted({found.code for found in every})
    run = {
        "tool": {"driver": {"name": "meshwarden", "rules": [_sarif_rule(code) for code in codes]}},
        "columnKind": "unicodeCodePoints",
        "results": [
            *(_sarif_result(found, codes) for found in result.findings),
            *(
                {**_sarif_result(found, codes), "suppressions": [{"kind": "inSource"}]}
                for found in result.suppressed
            ),
        ],
    }
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _sarif_rule(code: str) -> dict[str, Any]:
    entry = load_catalogue().get(code)
    if entry is None:
        return {"id": code}
    return {
        "id": code,
        "shortDescription": {"text": entry.title},
        "fullDescription": {"text": entry.why},
        "help": {"text": entry.fix},
        "defaultConfiguration": {"level": _SARIF_LEVELS[entry.severity]},
    }


def _sarif_result(found: LintFinding, codes: Sequence[str]) -> dict[str, Any]:
    text = f"{found.message} ({found.help})" if found.help else found.message
    body: dict[str, Any] = {
        "ruleId": found.code,
        "ruleIndex": codes.index(found.code),
        "level": _SARIF_LEVELS[found.severity],
        "message": {"text": text},
        "locations": [_sarif_place(found.location)],
        "partialFingerprints": {"meshwarden/v1": found.fingerprint},
    }
    if found.witness:
        body["properties"] = {"witness": found.witness.document()}
    if found.related:
        body["relatedLocations"] = [
            {**_sarif_place(each.location), "message": {"text": each.message}}
            for each in found.related
        ]
    return body


def _sarif_place(place: Location) -> dict[str, Any]:
    physical: dict[str, Any] = {"artifactLocation": {"uri": quote(place.file)}}
    if place.line:
        physical["region"] = {"startLine": place.line}
        if place.column:
            physical["region"]["startColumn"] = place.column
    return {"physicalLocation": physical}


def render_github(result: LintResult) -> str:
    """Return workflow commands, one a line, which GitHub shows beside the changed lines."""
    return "\n".join(map(_github_line, result.findings))


def _github_line(found: LintFinding) -> str:
    text = f"{found.message}\n{found.help}" if found.help else found.message
    place = {"file": found.location.file, "line": found.location.line, "col": found.location.column}
    fields = ",".join(f"{key}={_property(value)}" for key, value in place.items() if value)
    level = _GITHUB_LEVELS[found.severity]
    return f"::{level} {fields},title={_property(found.code)}::{_github(text)}"


def _github(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: object) -> str:
    return _github(str(value)).replace(":", "%3A").replace(",", "%2C")


def render_checkstyle(result: LintResult) -> str:
    """Return Checkstyle's XML, which most build servers read."""
    by_file: dict[str, list[LintFinding]] = defaultdict(list)
    for found in result.findings:
        by_file[found.location.file].append(found)
    files = (
        f"  <file {_attributes(name=file)}>\n{''.join(map(_checkstyle, found))}  </file>\n"
        for file, found in by_file.items()
    )
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<checkstyle version="8.0">\n'
    return f"{head}{''.join(files)}</checkstyle>"


def _checkstyle(found: LintFinding) -> str:
    attributes = _attributes(
        line=found.location.line,
        column=found.location.column,
        severity=found.severity,
        message=f"{found.message} ({found.help})" if found.help else found.message,
        source=f"meshwarden.{found.code}",
    )
    return f"    <error {attributes}/>\n"


def _attributes(**values: object) -> str:
    return " ".join(f'{key}="{escape(visible(str(value)))}"' for key, value in values.items())
