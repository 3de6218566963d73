"""What OPA takes out of a negated literal and puts in front of it.

`not f(input.x)` is to OPA `y = input.x; not f(y)`: where `input.x` is undefined, so is the
whole body, and nothing is true because a field is missing.
"""

from __future__ import annotations

from collections.abc import Callable

from opa_bridge.direct.syntax import (
    Array,
    Call,
    Comprehension,
    Object,
    Ref,
    Scalar,
    SetOf,
    Term,
    Var,
)


def taken_out(term: Term, is_variable: Callable[[str], bool]) -> list[Term]:
    """Return the terms that a negated one needs to be defined, in the order of the source.

    A variable always is; any other name is a rule or a document.

    `==` is a unification to OPA, whose own references stay; any other operator is a
    call, whose arguments do not.
    """
    if isinstance(term, Call):
        take = _within if term.name == "equal" else _whole
        return [found for each in term.arguments for found in take(each, is_variable)]
    return _within(term, is_variable)


def _within(term: Term, is_variable: Callable[[str], bool]) -> list[Term]:
    if isinstance(term, Ref):
        return [found for step in term.path for found in _whole(step, is_variable)]
    if isinstance(term, Var):
        return []
    return _whole(term, is_variable)


def _whole(term: Term, is_variable: Callable[[str], bool]) -> list[Term]:
    match term:
        case Call("count", (Comprehension(),)):
            # Always there.
            return []
        case Ref() | Call():
            return [term]
        case Var():
            return [] if is_variable(term.name) else [term]
        case Array() | SetOf():
            return [found for each in term.items for found in _whole(each, is_variable)]
        case Object():
            return [found for _, each in term.items for found in _whole(each, is_variable)]
        case Scalar() | Comprehension():
            return []
