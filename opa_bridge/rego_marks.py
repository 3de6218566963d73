"""Which lines of Rego an evaluation comes to: modules that say so, for who measures coverage.

Theory of operation. The engine tells nothing of its way, but it prints. So before every clause
comes another of the same rule that never holds: for each statement of the clause it prints
whether there is a way so far, by a comprehension over the statements before. What is asked is
asked as before; and since each printing gives a number to the condition that fails at last,
the order in which the engine takes statements makes no difference. A line counts as reached
when every statement that begins on it was. `default` clauses ask nothing and are not counted,
nor are heads with several bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from opa_bridge.scanner import ScanError, scan_tokens
from opa_bridge.statements import Branch, Tokens, branches_of, rules_of, steps_of

SIGN: Final = "meshwarden-mark"
"""Begins a line that a mark prints: the sign, the mark's number, 1 where a way leads there."""
_PACKAGE: Final = "meshwarden_marks"
_MARK: Final = f"data.{_PACKAGE}.mark"
_PRINTER: Final = f"""\
package {_PACKAGE}

import rego.v1

mark(number, ways) := 0 if print("{SIGN}", number, ways)
"""


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
    written.append((f"{_PACKAGE}.rego", _PRINTER))
    return MarkedModules(modules=tuple(written), marks=tuple(marks))


def _marked(file: str, source: str, marks: list[Mark]) -> str:
    try:
        tokens = scan_tokens(source)
    except ScanError:
        return source
    inserts: list[tuple[int, str]] = []
    for rule in rules_of(tokens):
        branches = list(branches_of(rule))
        if rule[0].text != "default" and not any(map(_has_bodies, branches)):
            inserts.extend(_inserts(file, source, branches, marks))
    for place, text in reversed(inserts):
        source = source[:place] + text + source[place:]
    return source


def _has_bodies(branch: Branch) -> bool:
    """Return whether a head has several bodies, `if {…} {…}`: which one held cannot be told."""
    body = branch.body or ()
    pairs = zip(body, body[1:], strict=False)
    return (
        bool(body)
        and body[0].text == "{"
        and any(
            (one.text, other.text, one.depth) == ("}", "{", body[0].depth) for one, other in pairs
        )
    )


def _inserts(
    file: str, source: str, branches: list[Branch], marks: list[Mark]
) -> Iterator[tuple[int, str]]:
    """Yield what to put before each branch of a rule, and where, in order."""
    for number, branch in enumerate(branches):
        numbers = "\n".join(_numbers(file, source, branch, marks))
        total = " + ".join(f"y{count}" for count in range(numbers.count(_MARK)))
        body = f"if {{\n{numbers}\n{total} > 0\n}}"
        place = branch.head[0].start
        # What an `else` asks is asked only where those before it do not hold, marks as well.
        yield place, f"{'else := 0' if number else _mark_head(source, branch.head)} {body}\n"


def _mark_head(source: str, head: Tokens) -> str:
    """Return the head of a clause with constants for its value and for what is in brackets."""
    text, begin = "", 0
    for index, token in enumerate(head):
        if token.depth:
            continue
        if token.text in (":=", "=", "contains", "if"):
            return f"{text} contains 0" if token.text == "contains" else f"{text} := 0"
        if token.text in ("(", "["):
            begin = index
        elif token.text == ")":
            text += source[head[begin].start : token.end]
        elif token.text == "]":
            text += '["meshwarden"]'
        else:
            text += token.text
    return f"{text} := 0"


def _numbers(file: str, source: str, branch: Branch, marks: list[Mark]) -> Iterator[str]:
    """Yield the statements that print, and give each a number."""
    before: list[str] = []
    steps = list(steps_of(branch.body or ()))
    for count, step in enumerate(steps):
        yield f"y{count} := {_mark(file, step, before, marks)}"
        before.append(source[step[0].start : step[-1].end])
    yield f"y{len(steps)} := {_mark(file, branch.head, before, marks, is_head=True)}"


def _mark(
    file: str, tokens: Tokens, before: list[str], marks: list[Mark], *, is_head: bool = False
) -> str:
    last = tokens[-1]
    marks.append(Mark(file, tokens[0].line, last.line + last.text.count("\n"), is_head))
    # WHY an object: the engine reads `some k, v in` in no other comprehension. WHY `true`: a
    # declaration alone is no body.
    asked = ";\n".join([*before, "true"])
    ways = f"count({{1: 1 |\n{asked}\n}})" if before else "1"
    return f"{_MARK}({len(marks) - 1}, {ways})"
