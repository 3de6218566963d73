"""Findings for people, each with the line it is about, and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from policies.diagnostic import Diagnostic, Location, Severity
from policies.lint.finding import LintFinding

# BUDGET: of a long line, what stands around the place; an inline key set is one line of KiB.
_WIDTH = 100
_BEFORE = 40
_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow"}


def finding_row(found: Diagnostic | LintFinding) -> dict[str, Any]:
    """Return a finding as a JSON object; what is unknown is 0 or empty."""
    return {
        "file": found.location.file,
        "line": found.location.line,
        "column": found.location.column,
        "path": found.path,
        "severity": str(found.severity),
        "code": found.code,
        "message": found.message,
        "help": found.help,
        "resource": found.resource,
    }


def print_findings(
    findings: Sequence[Diagnostic], lines: Mapping[str, Sequence[str]], console: Console
) -> None:
    """Print each finding with the line of its file; `lines` are those of the files read."""
    for found in findings:
        _print_finding(found, lines, console)


def print_tally(
    findings: Sequence[Diagnostic], files: int, resources: int, console: Console
) -> None:
    """Print the closing line."""
    errors = sum(found.severity is Severity.ERROR for found in findings)
    warnings = len(findings) - errors
    told = ", ".join(
        counted(number, word)
        for number, word in ((errors, "error"), (warnings, "warning"))
        if number
    )
    what = counted(files, "file")
    if not errors:
        what = f"{counted(resources, 'resource')} in {what}"
    style = "bold red" if errors else "bold yellow" if warnings else "bold green"
    console.print(Text(f"{what}: ") + Text(told or "ok", style=style), highlight=False)


def counted(number: int, word: str) -> str:
    """Return the number with its word.

    >>> counted(1, "error"), counted(2, "error")
    ('1 error', '2 errors')
    """
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _print_finding(found: Diagnostic, lines: Mapping[str, Sequence[str]], console: Console) -> None:
    style = _STYLES[found.severity]
    head = Text(f"{found.severity}[{found.code}]", style=style)
    console.print(head + Text(f": {visible(found.message)}", style="bold"), highlight=False)
    where = Text("  --> ", style="blue") + Text(visible(str(found.location)))
    if found.resource:
        where += Text(f"  {visible(found.resource)}", style="dim")
    # Many messages begin with the field's name; it is not said twice.
    if found.path and found.path not in found.message:
        where += Text(f"  {visible(found.path)}", style="dim")
    console.print(where, highlight=False)
    print_line(found.location, lines, console, style)
    if found.help:
        console.print(Text("   = ", style="blue") + Text(f"help: {visible(found.help)}"),
                      highlight=False)  # fmt: skip
    console.print()


def print_line(
    place: Location, lines: Mapping[str, Sequence[str]], console: Console, style: str
) -> None:
    """Print the line that a finding is about, with a mark below its column."""
    number, column = place.line, place.column
    text_lines = lines.get(place.file, ())
    if not 1 <= number <= len(text_lines):
        return
    line = text_lines[number - 1]
    start = max(0, column - _BEFORE) if len(line) > _WIDTH else 0
    cut = visible(line[start : start + _WIDTH])
    bar = Text(f"{number:5} | ", style="blue")
    console.print(bar + Text(f"{'...' if start else ''}{cut}"), highlight=False)
    if 1 <= column <= len(line) + 1:
        before = visible(line[start : column - 1])
        gap = " " * (len(before) + (3 if start else 0))
        console.print(Text("      | ", style="blue") + Text(f"{gap}^", style=style),
                      highlight=False)  # fmt: skip


def visible(text: str) -> str:
    """Return a text without what would move a terminal's cursor or change its colours."""
    if text.isprintable():
        return text
    return "".join(
        " " if c == "\t" else c if c.isprintable() else c.encode("unicode_escape").decode("ascii")
        for c in text
    )
