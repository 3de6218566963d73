"""Templates of names: `/team/{team}/app/{app}`, matched against one text and filled for another.

Theory of operation. A variable holds characters of a fixed alphabet, and each but the
last is followed by a character outside it; what follows the last has a fixed length. So
a text fits a template in one way at most, and a text that a template was filled to gives
back what it was filled with. That is what lets `identity.mapping` say that two names
never become one.

`{x}` holds letters, digits, `.`, `-` and `_`; `{x:label}` the same without `.`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from identity.errors import MappingError

_LABEL: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_LOWER_LABEL: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
_SEGMENT: Final = _LABEL | {"."}
_PIECE: Final = re.compile(
    r"\{(?P<name>[A-Za-z][A-Za-z0-9]*)(?P<kind>:label)?\}|(?P<literal>[^{}]+)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Variable:
    """A part of a template that varies: one or more characters of its alphabet."""

    name: str
    alphabet: frozenset[str]


Piece = str | Variable


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: literal texts and variables, no two variables without a text between."""

    text: str
    pieces: tuple[Piece, ...]

    @property
    def variables(self) -> frozenset[str]:
        """The names of its variables."""
        return frozenset(each.name for each in self.pieces if isinstance(each, Variable))

    def filled(self, values: Mapping[str, str]) -> str:
        """Return the text with every variable replaced."""
        return "".join(each if isinstance(each, str) else values[each.name] for each in self.pieces)

    @property
    def alphabets(self) -> dict[str, frozenset[str]]:
        """What each variable may hold."""
        return {each.name: each.alphabet for each in self.pieces if isinstance(each, Variable)}

    def pattern(self) -> re.Pattern[str]:
        """Return the regular expression of the texts that fit."""
        return re.compile("".join(map(_expression, self.pieces)), re.ASCII)


def parse_template(
    text: str,
    *,
    lower_labels: bool = False,
    alphabets: Mapping[str, frozenset[str]] | None = None,
    fixed: Mapping[str, str] | None = None,
) -> Template:
    """Return the template that a text spells, variables that are `fixed` replaced by their value.

    `lower_labels` is for DNS names, whose variables are all labels in lower case;
    `alphabets`, when given, are the only variables there may be, and what they hold.

    Raises:
        MappingError: the text is no template, or a text could fit it in two ways.
    """
    pieces: list[Piece] = []
    at = 0
    while at < len(text):
        found = _PIECE.match(text, at)
        if found is None:
            raise MappingError(f"`{text}` has a `{text[at]}` that begins or ends no variable")
        at = found.end()
        piece = _piece(found, text, lower_labels=lower_labels, alphabets=alphabets)
        if isinstance(piece, Variable) and piece.name in (fixed or {}):
            piece = _value(piece, (fixed or {})[piece.name])
        if pieces and isinstance(piece, str) and isinstance(pieces[-1], str):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return _checked(Template(text, tuple(pieces)))


def can_meet(first: Template, second: Template) -> bool:
    """Whether some text fits both templates.

    >>> can_meet(parse_template("a-{x}"), parse_template("{y}-b"))
    True
    >>> can_meet(parse_template("{x:label}"), parse_template("{y:label}.{z:label}"))
    False
    """
    ours, theirs = _states(first), _states(second)
    todo, seen = [(0, 0)], {(0, 0)}
    while todo:
        left, right = todo.pop()
        if left == len(ours) and right == len(theirs):
            return True
        if left == len(ours) or right == len(theirs):
            continue
        if not ours[left][0] & theirs[right][0]:
            continue
        for step in (
            (next_left, next_right)
            for next_left in _next(ours, left)
            for next_right in _next(theirs, right)
        ):
            if step not in seen:
                seen.add(step)
                todo.append(step)
    return False


def _states(template: Template) -> list[tuple[frozenset[str], bool]]:
    """Return for each character its alphabet, and whether it may repeat."""
    states: list[tuple[frozenset[str], bool]] = []
    for each in template.pieces:
        if isinstance(each, Variable):
            states.append((each.alphabet, True))
        else:
            states.extend((frozenset(character), False) for character in each)
    return states


def _next(states: list[tuple[frozenset[str], bool]], at: int) -> tuple[int, ...]:
    return (at, at + 1) if states[at][1] else (at + 1,)


def _piece(
    found: re.Match[str],
    text: str,
    *,
    lower_labels: bool,
    alphabets: Mapping[str, frozenset[str]] | None,
) -> Piece:
    literal, name = found["literal"], found["name"]
    if literal is not None:
        return str(literal)
    if alphabets is not None:
        if name not in alphabets:
            raise MappingError(f"`{text}` holds `{{{name}}}`, which the pattern does not have")
        return Variable(name, alphabets[name])
    if lower_labels:
        return Variable(name, _LOWER_LABEL)
    return Variable(name, _LABEL if found["kind"] else _SEGMENT)


def _value(variable: Variable, value: str) -> str:
    """Return the fixed value of a variable."""
    if not value or not set(value) <= variable.alphabet:
        raise MappingError(f"`{value}` cannot be the value of `{{{variable.name}}}`")
    return value


def _checked(template: Template) -> Template:
    """Return the template if a text can fit it in one way only.

    Raises:
        MappingError: it cannot be told where a variable ends, or one stands twice.
    """
    names = [each.name for each in template.pieces if isinstance(each, Variable)]
    for name in names:
        if names.count(name) > 1:
            raise MappingError(f"`{template.text}` has `{{{name}}}` twice")
    variables = [place for place, each in enumerate(template.pieces) if isinstance(each, Variable)]
    for place in variables[:-1]:
        variable, after = template.pieces[place], template.pieces[place + 1]
        assert isinstance(variable, Variable)
        if isinstance(after, Variable) or after[0] in variable.alphabet:
            raise MappingError(
                f"`{template.text}` does not tell where `{{{variable.name}}}` ends: "
                "expected a character behind it that it cannot hold"
            )
    return template


def _expression(piece: Piece) -> str:
    if isinstance(piece, str):
        return re.escape(piece)
    characters = "".join(re.escape(each) for each in sorted(piece.alphabet))
    return f"(?P<{piece.name}>[{characters}]+)"
