"""What the demo prints when it is done: the table, three records, the verification."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.demo.runner import Row, rule_of, shadow_of

_COLUMNS = (
    "request", "peer", "subject", "expected", "got", "policy and rule", "reason", "shadow", "ms",
)  # fmt: skip


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """Print one line for each request."""
    table = Table(title="What was asked, and what was answered", title_justify="left")
    for name in _COLUMNS:
        table.add_column(name, overflow="fold", justify="right" if name == "ms" else "left")
    for row in rows:
        style = "red" if row.problems else None
        table.add_row(*(escape(cell) for cell in _cells(row)), style=style)
    console.print(table)
    for row in rows:
        for problem in row.problems:
            request = f"{row.case.method} {row.case.target} as {row.case.peer}"
            console.print(f"[red]not as expected[/] {escape(f'{request}: {problem}')}")


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
    decided = ("?", "?", "?") if record is None else (
        rule_of(record) or "-",
        record["decision"]["reason"],
        shadow_of(record) or "-",
    )  # fmt: skip
    effect = "?" if record is None else record["decision"]["effect"]
    return (
        f"{case.method} {case.target}",
        case.peer,
        case.token or "-",
        f"{case.status} {case.effect}",
        f"{answer.status} {effect}",
        *decided,
        f"{answer.milliseconds:.1f}",
    )
