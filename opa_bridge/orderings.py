"""Where comparisons by order stand in a module, and what stands on both sides of them.

The library orders values of different types by their spelling, and texts by their escaped one,
so `<` and its like are respelled as calls (`opa_bridge.polyfills`). Nothing is decided where a
side could end in two places: that is told, and does not load.

Spec: OPA's grammar: `<` binds looser than `|`, `&`, sums and products, tighter than `in`,
assignments and `with`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from opa_bridge.scanner import Kind, Token
from opa_bridge.statements import can_end

ORDERINGS: Final = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
EQUALITIES: Final = {"==": "equal", "!=": "neq"}
_ARITHMETIC: Final = frozenset({"+", "-", "*", "/", "|", "&"})
_COMPARISONS: Final = frozenset({*ORDERINGS, "==", "!="})
_ENDS: Final = frozenset({";", ",", ":", ":=", "="})
_NUMBERS: Final = frozenset({"count", "sum", "product", "abs", "ceil", "floor", "round"})
_WORDS: Final = frozenset({"if", "not", "in", "with", "as", "else", "some", "every", "contains"})
_OPENERS: Final = frozenset({"{", "[", "("})

Tokens = tuple[Token, ...]


@dataclass(frozen=True, slots=True)
class Ordering:
    """A comparison in tokens: where it begins, its sign, and where it ends."""

    begin: int
    sign: int
    end: int


@dataclass(frozen=True, slots=True)
class Unclear:
    """A comparison whose sides cannot be told; `why` is one clause."""

    sign: int
    why: str


def orderings(tokens: Tokens) -> Iterator[Ordering | Unclear]:
    """Yield every comparison by order, in the order of their signs.

    Left out are literals that surely compare numbers: there the library is right, and fast.
    """
    for sign, token in enumerate(tokens):
        if token.kind is not Kind.SIGN or token.text not in ORDERINGS:
            continue
        begin, end = _begin(tokens, sign), _end(tokens, sign)
        if begin == sign or end == sign + 1:
            # No Rego, which the library tells.
            continue
        if any(_is_comparison(tokens, place) for place in (begin - 1, end)):
            yield Unclear(sign, "it stands beside another comparison")
        elif _is_value(tokens, begin) or not (
            _is_number(tokens[begin:sign]) and _is_number(tokens[sign + 1 : end])
        ):
            yield Ordering(begin, sign, end)


def equalities(tokens: Tokens) -> Iterator[Ordering]:
    """Yield each `==` and `!=` that is a value and has a side that may fail.

    The library says false of it where OPA has no answer.
    """
    for sign, token in enumerate(tokens):
        if token.kind is not Kind.SIGN or token.text not in EQUALITIES:
            continue
        begin, end = _begin(tokens, sign), _end(tokens, sign)
        sides = tokens[begin:sign] + tokens[sign + 1 : end]
        may_fail = any(each.depth == token.depth and each.text in _ARITHMETIC for each in sides)
        if _is_value(tokens, begin) and may_fail and begin < sign < end - 1:
            yield Ordering(begin, sign, end)


def _is_value(tokens: Tokens, begin: int) -> bool:
    """Return whether a comparison is no literal of its own."""
    return begin > 0 and tokens[begin - 1].text in (":=", "=", "(", "[", ",", ":", "|")


def _is_number(side: Tokens) -> bool:
    """Return whether a side of a comparison is a number or nothing."""
    if side[-1].kind is Kind.NUMBER and (len(side) == 1 or (len(side), side[0].text) == (2, "-")):
        return True
    signs = {token.text for token in side if token.depth == side[0].depth}
    if signs & _ARITHMETIC:
        return bool(signs & {"+", "*", "/"}) and not signs & {"|", "&"}
    is_call = len(side) > 1 and side[1].text == "(" and side[-1].text == ")"
    return (
        is_call
        and side[0].text in _NUMBERS
        and sum(t.text == "(" for t in side if t.depth == side[0].depth) == 1
    )


def _begin(tokens: Tokens, sign: int) -> int:
    """Return where the left side begins."""
    depth, place = tokens[sign].depth, sign
    while place > 0:
        before = tokens[place - 1]
        if before.depth < depth or (before.depth == depth and _is_end(tokens, place - 1)):
            break
        if before.depth == depth and place != sign and _is_fresh(tokens, place):
            break
        place -= 1
    return place


def _end(tokens: Tokens, sign: int) -> int:
    """Return where the right side ends."""
    depth, place = tokens[sign].depth, sign + 1
    while place < len(tokens) and tokens[place].depth >= depth:
        is_own = tokens[place].depth == depth
        if is_own and _is_end(tokens, place):
            break
        if is_own and place != sign + 1 and _is_fresh(tokens, place):
            break
        place += 1
    return place


def _is_end(tokens: Tokens, place: int) -> bool:
    """Return whether no side of a comparison goes on over a token of its depth."""
    token = tokens[place]
    if token.kind is Kind.SIGN:
        return token.text in _ENDS or token.text in _COMPARISONS or _is_bar(tokens, place)
    if token.kind is not Kind.NAME or token.text not in _WORDS or _is_field(tokens, place):
        return False
    # `contains(x, y)` is a call.
    return token.text != "contains" or not _is_called(tokens, place)


def _is_comparison(tokens: Tokens, place: int) -> bool:
    is_there = 0 <= place < len(tokens)
    return is_there and tokens[place].kind is Kind.SIGN and tokens[place].text in _COMPARISONS


def _is_field(tokens: Tokens, place: int) -> bool:
    return place > 0 and tokens[place - 1].text == "."


def _is_called(tokens: Tokens, place: int) -> bool:
    behind = tokens[place + 1 : place + 2]
    return bool(behind) and behind[0].text == "(" and behind[0].start == tokens[place].end


def _is_fresh(tokens: Tokens, place: int) -> bool:
    """Return whether a token begins a statement on a line of its own."""
    token, before = tokens[place], tokens[place - 1]
    goes_on = token.kind is Kind.SIGN and token.text not in _OPENERS
    return token.starts_line and not goes_on and can_end(before)


def _is_bar(tokens: Tokens, place: int) -> bool:
    """Return whether a `|` parts a comprehension's head from its body: it is the first there."""
    if tokens[place].text != "|":
        return False
    depth = tokens[place].depth
    for index in range(place - 1, -1, -1):
        token = tokens[index]
        if token.depth < depth:
            return token.text in ("[", "{")
        if token.depth == depth and token.kind is Kind.SIGN and token.text in ("|", ";", ":="):
            return False
    return False
