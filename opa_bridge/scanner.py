"""Rego source as tokens: just enough to see every name that a module calls.

Theory of operation: the engine may abort the whole process on a built-in that it half
knows, so modules are checked before it sees them. The scanner knows comments, the string
forms and names; it cannot be led astray by what stands in a comment or a string. Whatever
it does not understand it refuses, so a trick that hides a call from it does not load.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
      | (?P<comment>\#[^\n]*)
      | (?P<template>\$["`])
      | (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>[0-9][0-9A-Za-z_.]*)
      | (?P<sign>:=|==|!=|<=|>=|[^\s\w"`$])""",
    re.VERBOSE | re.ASCII,
)
_CONTROL = re.compile("[\x00-\x1f]")


class Kind(Enum):
    """What a token is."""

    NAME = auto()
    STRING = auto()
    NUMBER = auto()
    SIGN = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `depth` counts the open brackets before it; `starts_line` ignores blanks.

    `start` is its offset in the source, in characters.
    """

    kind: Kind
    text: str
    line: int
    depth: int
    starts_line: bool
    start: int = 0

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.start + len(self.text)


class ScanError(Exception):
    """The source holds something that is not Rego, or a form that is refused."""

    def __init__(self, why: str, line: int) -> None:
        """Keep the clause and the line."""
        super().__init__(why)
        self.why = why
        self.line = line


_KINDS = {"name": Kind.NAME, "string": Kind.STRING, "number": Kind.NUMBER, "sign": Kind.SIGN}


def scan_tokens(source: str) -> tuple[Token, ...]:
    """Return the tokens of a module, without blanks and comments.

    Raises:
        ScanError: a character or string form outside the accepted subset.
    """
    tokens: list[Token] = []
    position, line, depth, last_line = 0, 1, 0, 0
    while position < len(source):
        found = _TOKEN.match(source, position)
        if found is None:
            raise ScanError("an unclosed string or an unexpected character", line)
        kind, text = found.lastgroup, found.group()
        if kind == "template":
            raise ScanError("template strings are not supported", line)
        if kind in _KINDS:
            _refuse_spelling(text, line)
            depth -= text in ("}", "]", ")")
            tokens.append(Token(_KINDS[kind], text, line, depth, line != last_line, position))
            depth += text in ("{", "[", "(")
            last_line = line + text.count("\n")
        line += text.count("\n")
        position = found.end()
    return tuple(tokens)


def _refuse_spelling(text: str, line: int) -> None:
    if not text.startswith('"'):
        return
    # A string is one of JSON: "All code points may be placed within the quotation marks except
    # [...] the control characters U+0000 to U+001F" (ECMA-404 section 9).
    if _CONTROL.search(text):
        raise ScanError("a control character in a string; write it as an escape", line)
    # WHY: the engine compares strings in their escaped spelling, in which `\u0041` and `A`,
    # or `\/` and `/`, differ; with one spelling for each character it compares as OPA does.
    if re.search(r'(?<!\\)(?:\\\\)*\\[^"\\bfnrt]', text):
        raise ScanError(r"only the escapes \" \\ \b \f \n \r \t are supported in a string", line)
