"""What the demo prints when it is done: the table, three records, the verification."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.demo.runner import Row, rule_of, shadow_of

_COLUMNS = (
    "request", "peer", "subject", "expected", "got", "policy and rule", "reason", "shadow", "ms",
)  # fmt: skip


# Below this width a table of nine columns folds words into syllables.
_TABLE_WIDTH = 170


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """Print every request with its answer: as a table, or as blocks on a narrow terminal."""
    if console.width < _TABLE_WIDTH:
        _print_blocks(console, rows)
    else:
        _print_columns(console, rows)
    for row in rows:
        for problem in row.problems:
            request = f"{row.case.method} {row.case.target} as {row.case.peer}"
            console.print(f"[red]not as expected[/] {escape(f'{request}: {problem}')}")


def _print_blocks(console: Console, rows: Sequence[Row]) -> None:
    """Print a few short lines for each request."""
    console.print("[bold]What was asked, and what was answered[/]")
    for row in rows:
        request, peer, subject, expected, got, rule, reason, shadow, spent = map(
            escape, _cells(row)
        )
        mark = "[red]✗[/]" if row.problems else "[green]✓[/]"
        console.print(f"{mark} [bold]{request}[/]  peer {peer}, subject {subject}", highlight=False)
        console.print(
            f"    expected {expected}, got {got}, shadow {shadow}, {spent} ms", highlight=False
        )
        console.print(f"    {rule}: {' '.join(reason.split())}", highlight=False)


def _print_columns(console: Console, rows: Sequence[Row]) -> None:
    """Print one line for each request."""
    table = Table(title="What was asked, and what was answered", title_justify="left")
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", justify="right" if name == "ms" else "left")
    for row in rows:
        style = "red" if row.problems else None
        table.add_row(*(escape(cell) for cell in _cells(row)), style=style)
    console.print(table)


def print_records(console: Console, rows: Iterable[Row]) -> None:
    """Print the audit records of these rows, as they were written."""
    for row in rows:
        console.print(
            f"\n[bold]Audit record of[/] {escape(f'{row.case.method} {row.case.target}')}"
        )
        console.print(json.dumps(row.record, indent=2), markup=False, highlight=False)


def _cells(row: Row) -> tuple[str, ...]:
    """Return the texts of one line."""
    case, answer, record = row.case, row.answer, row.record
    asked = (f"{case.method} {case.target}", case.peer, case.token or "-")
    expected, spent = f"{case.status} {case.effect}", f"{answer.milliseconds:.1f}"
    if record is None:
        return (*asked, expected, f"{answer.status} ?", "?", "?", "?", spent)
    got = f"{answer.status} {record['decision']['effect']}"
    rule, shadow = rule_of(record) or "-", shadow_of(record) or "-"
    return (*asked, expected, got, rule, _reason(record), shadow, spent)


def _reason(record: Mapping[str, Any]) -> str:
    """Return the reason's code, and for a denial its one clause below."""
    decision = record["decision"]
    if decision["effect"] == "allow":
        return str(decision["reason"])
    # A near miss says more than "no rule matched"; the place in it is in the record.
    clause = re.sub(r" \([^)]*:\d+\)", "", decision["near_miss"]) or decision["detail"]
    return f"{decision['reason']}\n  {clause}"
