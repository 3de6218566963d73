"""What clauses ask of one place: whether two exclude each other, and which can match a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from opa_bridge.direct.syntax import (
    Array,
    Body,
    Call,
    Clause,
    Comprehension,
    Condition,
    Object,
    Ref,
    Scalar,
    SetOf,
    Term,
    Var,
)
from opa_bridge.direct.values import RegoSet, key_of

# BUDGET: fewer clauses are tried as fast as they are chosen from.
_CLAUSES_LEAST: Final = 8
# BUDGET: clauses that are compared with each other for whether they exclude each other.
_COMPARED_MOST: Final = 300
_STEPS: Final = frozenset({str, int})

# A place in the input (its steps) or a parameter (its number).
Place = tuple[str | int, ...]
Aliases = Mapping[str, tuple[str, ...]]


def constant(term: Term) -> Any:
    """Return the value of a term that has no names in it.

    Raises:
        ValueError: it has.
    """
    match term:
        case Scalar():
            return term.value
        case Array():
            return [constant(item) for item in term.items]
        case SetOf():
            return RegoSet(constant(item) for item in term.items)
        case Object():
            return {key: constant(item) for key, item in term.items}
        case Var() | Ref() | Call() | Comprehension():
            raise ValueError


def is_constant(term: Term) -> bool:
    """Return whether a term has no names in it."""
    try:
        constant(term)
    except ValueError:
        return False
    return True


def equalities(clause: Clause, aliases: Aliases) -> dict[Place, Any]:
    """Return what a clause needs some places to be, as `key_of` tells values apart."""
    found: dict[Place, Any] = {}
    names = {
        parameter.name: number
        for number, parameter in enumerate(clause.parameters)
        if isinstance(parameter, Var)
    }
    for number, parameter in enumerate(clause.parameters):
        if isinstance(parameter, Scalar):
            found[number,] = key_of(parameter.value)
    hidden = _declared(clause.body)
    # Where the body does not hold, `else` may.
    for literal in clause.body if clause.otherwise is None else ():
        if not isinstance(literal, Condition) or literal.negated:
            continue
        if not isinstance(literal.term, Call) or literal.term.name != "equal":
            continue
        left, right = literal.term.arguments
        for term, other in ((left, right), (right, left)):
            place = _place(term, names, aliases, hidden)
            if place is not None and is_constant(other):
                found.setdefault(place, key_of(constant(other)))
    return found


def exclude_each_other(needs: Sequence[Mapping[Place, Any]]) -> bool:
    """Return whether of clauses with these needs no two can match together."""
    if len(needs) > _COMPARED_MOST:
        return False
    return all(
        any(place in other and other[place] != value for place, value in one.items())
        for index, one in enumerate(needs)
        for other in needs[:index]
    )


def table_of(
    needs: Sequence[Mapping[Place, Any]],
) -> tuple[Place, dict[str, tuple[int, ...]], tuple[int, ...]] | None:
    """Return a place in the input, the clauses that can match by its text, and those of no text.

    None: the clauses are few, or have no such place.
    """
    places = Counter(
        place
        for need in needs
        for place, value in need.items()
        if isinstance(place[0], str) and isinstance(value, str)
    )
    if len(needs) < _CLAUSES_LEAST or not places:
        return None

    def worth(place: Place) -> tuple[int, int]:
        return len({need.get(place) for need in needs}), places[place]

    place = max(places, key=worth)
    texts = {need[place] for need in needs if isinstance(need.get(place), str)}
    chosen = {
        text: tuple(n for n, need in enumerate(needs) if need.get(place, text) == text)
        for text in texts
    }
    rest = tuple(n for n, need in enumerate(needs) if not isinstance(need.get(place), str))
    return place, chosen, rest


def _place(
    term: Term, names: Mapping[str, int], aliases: Aliases, hidden: Iterable[str]
) -> Place | None:
    """Return which place a term surely is."""
    if isinstance(term, Var):
        number = names.get(term.name) if term.name not in hidden else None
        return None if number is None else (number,)
    if not isinstance(term, Ref) or term.head.name in hidden or term.head.name in names:
        return None
    path = ("input",) if term.head.name == "input" else aliases.get(term.head.name, ())
    steps = tuple(
        step.value for step in term.path if isinstance(step, Scalar) and type(step.value) in _STEPS
    )
    if path[:1] != ("input",) or len(steps) != len(term.path):
        return None
    place: Place = (*path[1:], *steps)  # type: ignore[arg-type]  # texts and whole numbers
    return place if isinstance(place[0], str) else None


def _declared(body: Body) -> set[str]:
    """Return the names that a body declares itself."""
    found: set[str] = set()
    for literal in body:
        for field in ("name", "key", "value"):
            found.add(getattr(literal, field, "_"))
        found.update(getattr(literal, "names", ()))
    return found
