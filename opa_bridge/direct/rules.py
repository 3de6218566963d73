"""Rules and functions from their clauses: one value, which all clauses agree on, or a set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opa_bridge.direct.conditions import Place, constant, exclude_each_other, is_constant
from opa_bridge.direct.program import Rule
from opa_bridge.direct.run import Conflict, Run
from opa_bridge.direct.syntax import Clause
from opa_bridge.direct.values import UNDEFINED, RegoSet, is_equal

# The rule's value for an evaluation and, of a function, its arguments.
RuleFn = Callable[[Run, Sequence[Any]], Any]


def value_rule(choose: Callable[[Run], tuple[RuleFn, ...]], default: Any, is_same: bool) -> RuleFn:
    """Return a rule or function that has the value of its clauses, which must agree."""

    def function(run: Run, arguments: Sequence[Any]) -> Any:
        found = UNDEFINED
        for clause in choose(run):
            run.spend()
            value = clause(run, arguments)
            if value is UNDEFINED:
                continue
            if found is UNDEFINED:
                found = value
                if is_same:
                    break
            else:
                agree(run, found, value)
        return default if found is UNDEFINED else found

    return function


def set_rule(clauses: Sequence[RuleFn]) -> RuleFn:
    """Return a rule that has the members of all its clauses, each of which returns a list."""

    def function(run: Run, arguments: Sequence[Any]) -> Any:
        found: list[Any] = []
        for clause in clauses:
            found += clause(run, arguments)
        run.walk(found)
        return RegoSet(found)

    return function


def agree(run: Run, one: Any, other: Any) -> None:
    """Raise Conflict unless two values are equal."""
    run.walk(one)
    run.walk(other)
    if not is_equal(one, other):
        raise Conflict


def alternatives(clause: Clause) -> list[Clause]:
    """Return a clause and its `else`, one behind the other."""
    found = [clause]
    while found[-1].otherwise is not None:
        found.append(found[-1].otherwise)
    return found


def is_same_constant(rule: Rule) -> bool:
    """Return whether every clause gives the rule the same value, as it is written."""
    values = [
        constant(each.value) if is_constant(each.value) else UNDEFINED
        for _, clause in rule.clauses
        for each in alternatives(clause)
    ]
    return all(value is not UNDEFINED and is_equal(value, values[0]) for value in values)


def has_one_value(
    rule: Rule, iterate: Sequence[bool], needs: Sequence[Mapping[Place, Any]]
) -> bool:
    """Return whether a rule surely has one value at most, whatever the input."""
    if is_same_constant(rule):
        return True
    return not any(iterate) and exclude_each_other(needs)
