"""What OPA takes out of a negated literal and puts in front of it.

`not f(input.x)` is to OPA `y = input.x; not f(y)`: where `input.x` is undefined, so is the
whole body, and nothing is true because a field is missing.
"""

from __future__ import annotations

from opa_bridge.direct.scope import Scope
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


def taken_out(term: Term, scope: Scope) -> list[Term]:
    """Return the terms that a negated one needs to be defined.

    `==` is a unification to OPA, whose own references stay; any other operator is a
    call, whose arguments do not.
    """
    if isinstance(term, Call):
        take = _within if term.name == "equal" else _whole
        return [found for each in term.arguments for found in take(each, scope)]
    return _within(term, scope)


def _within(term: Term, scope: Scope) -> list[Term]:
    if isinstance(term, Ref):
        return [found for step in term.path for found in _whole(step, scope)]
    if isinstance(term, Var):
        return []
    return _whole(term, scope)


def _whole(term: Term, scope: Scope) -> list[Term]:
    match term:
        case Ref() | Call():
            return [term]
        case Var():
            return [] if scope.find(term.name) is not None else [term]
        case Array() | SetOf():
            return [found for each in term.items for found in _whole(each, scope)]
        case Object():
            return [found for _, each in term.items for found in _whole(each, scope)]
        case Scalar() | Comprehension():
            return []
