"""Where the variables of a rule are declared, and as far as where they are seen.

Theory of operation. A branch of a rule, a comprehension and the body of an `every` each have
variables of their own, which what they enclose sees as well. `:=`, `some` and `every` declare
one in the scope around them, parameters in every branch. A name that nothing declares is a
rule, an import, or a variable that a reference or `=` gives its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from opa_bridge.scanner import Kind, Token
from opa_bridge.statements import Tokens, can_end

_OPENERS: Final = frozenset({"{", "[", "("})
_CLOSERS: Final = frozenset({"}", "]", ")"})
_HEAD_ENDS: Final = frozenset({":=", "=", "contains", "if"})


class How(Enum):
    """What declares a variable."""

    ASSIGNED = auto()
    ITERATED = auto()
    NAMED = auto()
    """By `some x` alone, which gives it no value."""
    QUANTIFIED = auto()
    PARAMETER = auto()


@dataclass(frozen=True, slots=True)
class Scope:
    """Tokens from `begin` up to `end` of a rule; what stands before `body` is its head."""

    begin: int
    body: int
    end: int
    parent: int | None


@dataclass(frozen=True, slots=True)
class Declaration:
    """A name, the token that it stands at, and its scope; None is every branch."""

    name: str
    place: int
    scope: int | None
    how: How


class Scopes:
    """The scopes of one statement that defines a rule."""

    def __init__(self, rule: Tokens) -> None:
        """Find scopes and declarations."""
        self.tokens = rule
        self._closing = dict(_pairs(rule))
        self._quantified: dict[int, int] = dict(self._every_bodies())
        self.all: list[Scope] = []
        self._of: list[int] = [0] * len(rule)
        self._find()
        self.declarations = tuple(self._declarations())
        self._declared = {(each.scope, each.name) for each in self.declarations}

    def scope_of(self, place: int) -> int:
        """Return the number of the innermost scope around a token."""
        return self._of[place]

    def around(self, scope: int) -> Iterator[int]:
        """Yield a scope and each that encloses it, from within."""
        number: int | None = scope
        while number is not None:
            yield number
            number = self.all[number].parent

    def sees(self, place: int, name: str) -> tuple[int | None, bool]:
        """Return the scope whose declaration a name at a place means, and whether there is one."""
        for number in self.around(self._of[place]):
            if (number, name) in self._declared:
                return number, True
        return None, (None, name) in self._declared

    def is_in_head(self, place: int) -> bool:
        """Whether a token belongs to the head of its branch, and to no comprehension there."""
        scope = self.all[self._of[place]]
        return scope.parent is None and place < scope.body

    def names(self) -> Iterator[int]:
        """Yield where a name stands that is no field of another."""
        for place, token in enumerate(self.tokens):
            if token.kind is Kind.NAME and not self._is_field(place):
                yield place

    # -- scopes

    def _find(self) -> None:
        tokens = self.tokens
        cuts = [
            place
            for place, token in enumerate(tokens)
            if token.text == "else" and not token.depth and not self._is_field(place)
        ]
        for begin, end in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
            body = next((i + 1 for i in range(begin, end) if self._is_if(i)), end)
            self._add(Scope(begin, body, end, None))
            self._find_inner(begin, end, body)

    def _find_inner(self, begin: int, end: int, body: int) -> None:
        for place in range(begin, end):
            closing = self._closing.get(place)
            if closing is None or self.tokens[place].text == "(":
                continue
            inner = place + 1
            if place in self._quantified:
                self._add(Scope(inner, inner, closing, self._of[place]))
            elif (place, closing) != (body, end - 1):
                bar = self._bar(place, closing)
                if bar is not None:
                    self._add(Scope(inner, bar + 1, closing, self._of[place]))

    def _add(self, scope: Scope) -> None:
        number = len(self.all)
        self.all.append(scope)
        self._of[scope.begin : scope.end] = [number] * (scope.end - scope.begin)

    def _bar(self, opening: int, closing: int) -> int | None:
        """Return where the `|` of a comprehension stands."""
        depth = self.tokens[opening].depth + 1
        for place in range(opening + 1, closing):
            if self.tokens[place].text == "|" and self.tokens[place].depth == depth:
                return place
        return None

    def _is_if(self, place: int) -> bool:
        token = self.tokens[place]
        return token.text == "if" and not token.depth and not self._is_field(place)

    def _every_bodies(self) -> Iterator[tuple[int, int]]:
        """Yield, for each `every`, where its braces open and where it stands."""
        tokens = self.tokens
        for place, token in enumerate(tokens):
            if token.text != "every" or token.kind is not Kind.NAME or self._is_field(place):
                continue
            for index in range(place + 1, len(tokens)):
                found = tokens[index]
                if found.depth < token.depth:
                    break
                is_own = found.text == "{" and found.depth == token.depth
                # What stands behind `every`, `in` or an operator is a part of its domain.
                if is_own and can_end(tokens[index - 1]) and tokens[index - 1].text != "every":
                    yield index, place
                    break

    # -- declarations

    def _declarations(self) -> Iterator[Declaration]:
        yield from self._parameters()
        bodies = {place: brace for brace, place in self._quantified.items()}
        for place in range(len(self.tokens)):
            token = self.tokens[place]
            if token.text == ":=" and not self.is_in_head(place):
                begin = self._begin_of_pattern(place)
                yield from self._named(range(begin, place), self._of[place], How.ASSIGNED)
            elif token.kind is not Kind.NAME or self._is_field(place):
                continue
            elif token.text == "some":
                names = self._behind(place)
                behind = self.tokens[names.stop : names.stop + 1]
                how = How.ITERATED if behind and behind[0].text == "in" else How.NAMED
                yield from self._named(names, self._of[place], how)
            elif token.text == "every" and place in bodies:
                scope = self._of[bodies[place] + 1]
                yield from self._named(self._behind(place), scope, How.QUANTIFIED)

    def _parameters(self) -> Iterator[Declaration]:
        begin = 2 if self.tokens[0].text == "default" else 1
        for place in range(begin, len(self.tokens)):
            token = self.tokens[place]
            if token.depth or token.text in _HEAD_ENDS:
                return
            if token.text == "(":
                inside = range(place + 1, self._closing.get(place, place))
                yield from self._named(inside, None, How.PARAMETER)
                return

    def _named(self, places: range, scope: int | None, how: How) -> Iterator[Declaration]:
        for place in places:
            token, behind = self.tokens[place], self.tokens[place + 1 : place + 2]
            is_key = bool(behind) and behind[0].text == ":"
            is_name = token.kind is Kind.NAME and not self._is_field(place) and not is_key
            if is_name and token.text not in ("_", "true", "false", "null", "in", "with", "as"):
                yield Declaration(token.text, place, scope, how)

    def _behind(self, place: int) -> range:
        """Return the names and patterns behind `some` or `every`."""
        depth = self.tokens[place].depth
        for index in range(place + 1, len(self.tokens)):
            token, before = self.tokens[index], self.tokens[index - 1]
            ends = token.text in ("in", ";") or (token.starts_line and before.text != ",")
            if token.depth < depth or (token.depth == depth and ends and index > place + 1):
                return range(place + 1, index)
        return range(place + 1, len(self.tokens))

    def _begin_of_pattern(self, end: int) -> int:
        index = end - 1
        if self.tokens[index].text in _CLOSERS:
            index -= 1
            while index > 0 and self.tokens[index].depth > self.tokens[end].depth:
                index -= 1
        return index

    def _is_field(self, place: int) -> bool:
        return place > 0 and self.tokens[place - 1].text == "."


def _pairs(tokens: tuple[Token, ...]) -> Iterator[tuple[int, int]]:
    """Yield where each bracket opens and closes."""
    stack: list[int] = []
    for place, token in enumerate(tokens):
        if token.kind is Kind.SIGN and token.text in _OPENERS:
            stack.append(place)
        elif token.kind is Kind.SIGN and token.text in _CLOSERS and stack:
            yield stack.pop(), place
