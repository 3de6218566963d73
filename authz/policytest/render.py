"""Prints the results of a test run for people: each failure with the rule that decided."""

from __future__ import annotations

import linecache
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from authz.console_text import visible, visible_plain
from authz.policytest.result import CaseResult, Mismatch
from policies.diagnostic import Location

_QUOTED_LINES = 6


def _say(console: Console, text: Text) -> None:
    """Print one line in which nothing that others wrote acts on the terminal."""
    console.print(visible(text), highlight=False)


def print_result(result: CaseResult, console: Console) -> None:
    """Print one line for a pass, and everything that helps for a failure."""
    # Ten thousand cells that nobody reads are not laid out either.
    if console.quiet:
        return
    if result.passed and console.color_system is None:
        # WHY not laid out: ten thousand lines that nothing colours take a second to.
        console.file.write(f"  ✓ {visible_plain(result.case)}\n")
        return
    if result.skipped:
        _say(console, Text.assemble(("  - ", "yellow"), result.case,
                                    (f"  skipped: {result.skipped}", "dim")))  # fmt: skip
        return
    mark, style = ("✓", "green") if result.passed else ("✗", "bold red")
    _say(console, Text(f"  {mark} ", style=style) + Text(result.case))
    if result.passed:
        return
    _say(console, Text(f"      {result.location}", style="dim"))
    for mismatch in result.mismatches:
        _print_mismatch(mismatch, console)
    _print_cause(result, console)
    for pointer in result.pointers:
        _say(console, Text(f"      {pointer.told}", style="yellow"))
        if pointer.location.file:
            _quote(pointer.location, 1, console)


def print_summary(results: Sequence[CaseResult], console: Console) -> None:
    """Print the closing line."""
    failed = sum(result.failed for result in results)
    skipped = sum(bool(result.skipped) for result in results)
    style = "bold red" if failed else "bold green"
    tail = f", {skipped} skipped" if skipped else ""
    passed = len(results) - failed - skipped
    _say(console, Text(f"{passed} passed, {failed} failed{tail}", style=style))


def _print_mismatch(mismatch: Mismatch, console: Console) -> None:
    """Print what differs: on one line, or below each other where that is hard to compare."""
    expected, got = mismatch.expected or "none", mismatch.got or "none"
    if max(len(expected), len(got)) <= 40:  # what the eye takes in at once
        _say(console, Text.assemble(f"      {mismatch.what}: expected ", (expected, "green"),
                                    ", got ", (got, "red")))  # fmt: skip
        return
    _say(console, Text(f"      {mismatch.what}:"))
    _say(console, Text(f"        - {expected}", style="green"))
    _say(console, Text(f"        + {got}", style="red"))


def _print_cause(result: CaseResult, console: Console) -> None:
    """Print who decided and where that stands, with its text."""
    verdict = result.verdict
    if verdict is None:
        return
    _say(console, Text(f"      {verdict.detail} ({verdict.reason})"))
    if verdict.rule is None or verdict.place is None:
        return
    decided = Text.assemble("      decided by ", (verdict.rule, "bold"), f" at {verdict.place}")
    _say(console, decided)
    _quote(verdict.place, _QUOTED_LINES, console)


def _quote(place: Location, lines: int, console: Console) -> None:
    """Print a place of a file with its text."""
    # The file may have changed since the last run, when somebody watches.
    linecache.checkcache(place.file)
    if lines == 1:
        _say(console, Text(f"        at {place}", style="dim"))
    for number in range(place.line, place.line + lines):
        line = linecache.getline(place.file, number).rstrip().expandtabs(4)
        if not line or line.startswith("---"):
            break
        _say(console, Text(f"      {number:5} │ {line}", style="dim"))
