"""Prints the results of a test run for people: each failure with the rule that decided."""

from __future__ import annotations

import linecache
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from authz.console_text import visible
from authz.policytest.run import CaseResult

_QUOTED_LINES = 6


def _say(console: Console, text: Text) -> None:
    """Print one line in which nothing that others wrote acts on the terminal."""
    console.print(visible(text), highlight=False)


def print_result(result: CaseResult, console: Console) -> None:
    """Print one line for a pass, and everything that helps for a failure."""
    # Ten thousand cells that nobody reads are not laid out either.
    if console.quiet:
        return
    mark, style = ("✓", "green") if result.passed else ("✗", "bold red")
    _say(console, Text(f"  {mark} ", style=style) + Text(result.case.name))
    if result.passed:
        return
    _say(console, Text(f"      {result.location}", style="dim"))
    for mismatch in result.mismatches:
        _say(
            console,
            Text(f"      {mismatch.what}: expected ")
            + Text(mismatch.expected or "none", style="green")
            + Text(", got ")
            + Text(mismatch.got or "none", style="red"),
        )
    _print_cause(result, console)


def print_summary(results: Sequence[CaseResult], console: Console) -> None:
    """Print the closing line."""
    failed = sum(not result.passed for result in results)
    style = "bold red" if failed else "bold green"
    _say(console, Text(f"{len(results) - failed} passed, {failed} failed", style=style))


def _print_cause(result: CaseResult, console: Console) -> None:
    """Print who decided and where that stands, with its text, or what came nearest."""
    decision = result.outcome.decision
    _say(console, Text(f"      {decision.detail} ({decision.reason})"))
    if decision.near_miss:
        _say(console, Text(f"      near miss: {decision.near_miss}"))
    rule = decision.rule
    if rule is None:
        return
    _say(
        console,
        Text("      decided by ") + Text(rule.name, style="bold") + Text(f" at {rule.place}"),
    )
    for number in range(rule.line, rule.line + _QUOTED_LINES):
        line = linecache.getline(rule.file, number).rstrip()
        if not line or line.startswith("---"):
            break
        _say(console, Text(f"      {number:5} │ {line}", style="dim"))
