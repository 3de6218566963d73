"""Negated literals as OPA evaluates them, written out for the library.

OPA takes calls, and the arguments of calls, out of a negated literal: `not f(input.x)` is
`y := input.x; not f(y)`, and undefined where `input.x` is. The library evaluates all of it
below `not`, and would let everybody pass whose input lacks a field. So the library gets the
second form. No line moves.
"""

from __future__ import annotations

from bisect import bisect_left

from opa_bridge.direct.parse import Negation, parse_negations
from opa_bridge.scanner import Token, scan_tokens

_PREFIX = "meshwarden_needed_"


def state_needs(source: str) -> str:
    """Return a module with what its negated literals need in front of them.

    A literal that cannot be told is left as it is; the check of capabilities refuses it.

    >>> state_needs('package a\\nr if not f(input.x)\\n')
    'package a\\nr if { meshwarden_needed_0 := input.x; not f(meshwarden_needed_0) }\\n'

    Raises:
        ScanError: it is no Rego.
    """
    # Most modules negate nothing, or nothing that needs anything.
    if "not" not in source:
        return source
    tokens = scan_tokens(source)
    found = [each for each in parse_negations(tokens) if isinstance(each, Negation) and each.needed]
    return _Writer(source, tokens, found).between(0, len(source)) if found else source


class _Writer:
    """A source with its negations, which may stand in each other."""

    def __init__(self, source: str, tokens: tuple[Token, ...], found: list[Negation]) -> None:
        self._source = source
        self._tokens = tokens
        self._found = found
        self._begins = [tokens[each.begin].start for each in found]
        self._names = 0
        self._prefix = _PREFIX
        while self._prefix in source:
            self._prefix += "_"

    def between(self, begin: int, end: int) -> str:
        """Return what stands between two offsets, written out."""
        parts: list[str] = []
        for place in range(bisect_left(self._begins, begin), len(self._found)):
            negation = self._found[place]
            start = self._begins[place]
            if start >= end:
                break
            if start < begin:
                continue
            parts += [self._source[begin:start], self._written(negation)]
            begin = self._end_of(negation.end)
        return "".join([*parts, self._source[begin:end]])

    def _written(self, negation: Negation) -> str:
        place = self._tokens[negation.begin].end
        stated: list[str] = []
        literal = ["not"]
        replaced = self._source[self._end_of(negation.replaced) : self._end_of(negation.end)]
        for first, behind in negation.needed:
            name = f"{self._prefix}{self._names}"
            self._names += 1
            begin, end = self._tokens[first].start, self._end_of(behind)
            stated.append(f"{name} := {self.between(begin, end)}{_one_line(replaced)}; ")
            literal += [self.between(place, begin), name]
            place = end
        literal.append(self.between(place, self._end_of(negation.end)))
        text = "".join([*stated, *literal])
        # A body of one literal has no braces.
        is_bare = negation.begin > 0 and self._tokens[negation.begin - 1].text == "if"
        return f"{{ {text} }}" if is_bare else text

    def _end_of(self, behind: int) -> int:
        return self._tokens[behind - 1].end


def _one_line(text: str) -> str:
    """Return `with` clauses without their line ends and comments."""
    return "".join(
        f" {token.text}" if _is_apart(text, token) else token.text for token in scan_tokens(text)
    )


def _is_apart(text: str, token: Token) -> bool:
    return token.start > 0 and text[token.start - 1].isspace()
