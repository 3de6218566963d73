"""Which lines of Rego an evaluation comes to: modules that say so, for who measures coverage.

Theory of operation. The engine tells nothing of its way, but it prints. So every body gets,
in front, one `print` for each of its statements, with the number of ways to get so far: a
comprehension over the statements before. What a body asks is asked as before, and in which
order the engine takes its statements makes no difference. A line counts as reached when
every statement that begins on it was. `default` clauses ask nothing and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from opa_bridge.scanner import ScanError, scan_tokens
from opa_bridge.statements import Branch, Tokens, branches_of, rules_of, steps_of

SIGN: Final = "meshwarden-mark"
"""Begins a line that a mark prints: the sign, the mark's number, how many ways lead there."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What is printed when a place is come to: the lines of one statement, or of a head.

    The marks of a clause stand in its order, that of its head behind them all.
    """

    file: str
    line: int
    last: int
    is_head: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedModules:
    """Modules (file, source) that print, and what their marks stand for, by number."""

    modules: tuple[tuple[str, str], ...]
    marks: tuple[Mark, ...]


@dataclass(slots=True)
class LineCounts:
    """How often each line with a mark was reached, by file."""

    _least: dict[str, dict[int, int]] = field(default_factory=dict)

    def add(self, marks: Iterable[Mark], hits: Mapping[int, int]) -> None:
        """Add the marks of one set of modules with how often each was reached."""
        lines: dict[tuple[str, int], int] = {}
        for number, mark in enumerate(marks):
            for line in range(mark.line, mark.last + 1):
                key = (mark.file, line)
                lines[key] = min(lines.get(key, hits.get(number, 0)), hits.get(number, 0))
        for (file, line), count in lines.items():
            of_file = self._least.setdefault(file, {})
            of_file[line] = of_file.get(line, 0) + count

    def by_file(self) -> dict[str, dict[int, int]]:
        """Return the counts by file and line, both in order."""
        return {file: dict(sorted(lines.items())) for file, lines in sorted(self._least.items())}


def mark_modules(modules: Iterable[tuple[str, str]], only: Iterable[str]) -> MarkedModules:
    """Return the modules with marks in those files that are named; others stay as they are.

    One that cannot be scanned stays as it is, too: the engine will say why.
    """
    marks: list[Mark] = []
    wanted = set(only)
    written = [
        (file, _marked(file, source, marks) if file in wanted else source)
        for file, source in modules
    ]
    return MarkedModules(modules=tuple(written), marks=tuple(marks))


def _marked(file: str, source: str, marks: list[Mark]) -> str:
    try:
        tokens = scan_tokens(source)
    except ScanError:
        return source
    edits: list[tuple[int, int, str]] = []
    for rule in rules_of(tokens):
        if rule[0].text != "default":
            for branch in branches_of(rule):
                edits.extend(_edits(file, source, branch, marks))
    for begin, end, text in sorted(edits, reverse=True):
        source = source[:begin] + text + source[end:]
    return source


def _edits(
    file: str, source: str, branch: Branch, marks: list[Mark]
) -> Iterator[tuple[int, int, str]]:
    """Yield the texts to put into the source in the place of spans of it."""
    if branch.body is None:
        end = branch.head[-1].end
        said = _print(file, branch.head, "1", marks, is_head=True)
        yield end, end, f" if {{ {said} }}"
        return
    said = list(_prints(file, source, branch, marks))
    text = "".join(f"{each}\n" for each in said)
    begin, end = (branch.body[0].start, branch.body[-1].end) if branch.body else (0, 0)
    if branch.in_braces:
        yield begin, begin, text
    else:
        yield begin, end, f"{{ {text}{source[begin:end]} }}"


def _prints(file: str, source: str, branch: Branch, marks: list[Mark]) -> Iterator[str]:
    before: list[str] = []
    for step in steps_of(branch.body or ()):
        yield _print(file, step, _ways(before), marks)
        before.append(source[step[0].start : step[-1].end])
    yield _print(file, branch.head, _ways(before), marks, is_head=True)


def _ways(before: list[str]) -> str:
    asked = "\n".join(before)
    return f"count([1 |\n{asked}\n])" if before else "1"


def _print(
    file: str, tokens: Tokens, ways: str, marks: list[Mark], *, is_head: bool = False
) -> str:
    last = tokens[-1]
    marks.append(Mark(file, tokens[0].line, last.line + last.text.count("\n"), is_head))
    return f'print("{SIGN}", {len(marks) - 1}, {ways})'
