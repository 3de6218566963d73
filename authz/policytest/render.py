"""Prints the results of a test run for people: each failure with the rule that decided."""

from __future__ import annotations

import linecache
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from authz.policytest.run import CaseResult

_QUOTED_LINES = 6


def print_result(result: CaseResult, console: Console) -> None:
    """Print one line for a pass, and everything that helps for a failure."""
    # Ten thousand cells that nobody reads are not laid out either.
    if console.quiet:
        return
    mark, style = ("✓", "green") if result.passed else ("✗", "bold red")
    console.print(Text(f"  {mark} ", style=style) + Text(result.case.name), highlight=False)
    if result.passed:
        return
    console.print(Text(f"      {result.location}", style="dim"), highlight=False)
    for mismatch in result.mismatches:
        console.print(
            Text(f"      {mismatch.what}: expected ")
            + Text(mismatch.expected or "none", style="green")
            + Text(", got ")
            + Text(mismatch.got or "none", style="red"),
            highlight=False,
        )
    _print_cause(result, console)


def print_summary(results: Sequence[CaseResult], console: Console) -> None:
    """Print the closing line."""
    failed = sum(not result.passed for result in results)
    style = "bold red" if failed else "bold green"
    console.print(Text(f"{len(results) - failed} passed, {failed} failed", style=style))


def _print_cause(result: CaseResult, console: Console) -> None:
    """Print who decided and where that stands, with its text, or what came nearest."""
    decision = result.outcome.decision
    console.print(Text(f"      {decision.detail} ({decision.reason})"), highlight=False)
    if decision.near_miss:
        console.print(Text(f"      near miss: {decision.near_miss}"), highlight=False)
    rule = decision.rule
    if rule is None:
        return
    console.print(
        Text("      decided by ") + Text(rule.name, style="bold") + Text(f" at {rule.place}"),
        highlight=False,
    )
    for number in range(rule.line, rule.line + _QUOTED_LINES):
        line = linecache.getline(rule.file, number).rstrip()
        if not line or line.startswith("---"):
            break
        console.print(Text(f"      {number:5} │ {line}", style="dim"), highlight=False)
