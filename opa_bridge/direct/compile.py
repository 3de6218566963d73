"""An entrypoint as a closure, with all that it refers to; or why that is outside the fragment.

Theory of operation. Names are resolved, and every rule, function and built-in that the
entrypoint can reach is looked at, before there is any input. A body is taken in the order
in which it is written, and is outside the fragment where OPA would move its literals. So
are rules that may have two values, other than the entrypoint: OPA may find out its answer
without asking them, or may not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opa_bridge.direct import terms
from opa_bridge.direct.clauses import ClauseCompiler
from opa_bridge.direct.conditions import constant, equalities, is_constant, table_of
from opa_bridge.direct.program import Program, Rule
from opa_bridge.direct.rules import RuleFn, has_one_value, is_same_constant, set_rule, value_rule
from opa_bridge.direct.run import Run
from opa_bridge.direct.syntax import Outside, Shape
from opa_bridge.direct.terms import TermFn
from opa_bridge.direct.values import UNDEFINED


@dataclass(slots=True)
class _Compiled:
    """A rule that is compiled, or is being (without a function)."""

    number: int
    function: RuleFn | None = None


class Compiler:
    """Turns rules of a program into closures, each once."""

    def __init__(self, program: Program) -> None:
        """Begin with nothing compiled."""
        self._program = program
        self._rules: dict[str, _Compiled] = {}

    @property
    def count(self) -> int:
        """How many rules there are, as a `Run` must know."""
        return len(self._rules)

    def entrypoint(self, path: tuple[str, ...]) -> Callable[[Run], Any]:
        """Return the value of a rule as a function of an evaluation.

        Raises:
            Outside: something that it can reach is not in the fragment.
        """
        rule = self._program.rule(path[:-1], path[-1])
        if rule.shape is Shape.FUNCTION or not (rule.clauses or rule.default):
            raise Outside("the entrypoint is no rule with a value")
        function = self.function(rule, may_conflict=True)
        return lambda run: function(run, ())

    def function(self, rule: Rule, *, may_conflict: bool = False) -> RuleFn:
        """Return a rule's function; one that may find two values only where that is allowed."""
        return self._compiled(rule, may_conflict)[1]

    def value(self, rule: Rule) -> TermFn:
        """Return a rule's value as a term."""
        if rule.shape is Shape.FUNCTION:
            raise Outside(f"`{rule.title}` is a function")
        number, function = self._compiled(rule)
        return terms.rule_term(number, lambda run: function(run, ()))

    def _compiled(self, rule: Rule, may_conflict: bool = False) -> tuple[int, RuleFn]:
        known = self._rules.get(rule.title)
        if known is None:
            known = self._rules[rule.title] = _Compiled(len(self._rules))
            known.function = self._new(rule, may_conflict)
        if known.function is None:
            raise Outside(f"`{rule.title}` refers to itself")
        return known.number, known.function

    def _new(self, rule: Rule, may_conflict: bool) -> RuleFn:
        chains = [
            ClauseCompiler(self, self._program, source).chain(clause)
            for source, clause in rule.clauses
        ]
        if rule.shape is Shape.SET:
            return set_rule([chain.function for chain in chains])
        needs = [equalities(clause, source.imports) for source, clause in rule.clauses]
        if not may_conflict and not has_one_value(rule, [c.iterates for c in chains], needs):
            raise Outside(f"`{rule.title}` may have two values")
        default = UNDEFINED
        if rule.default is not None:
            if not is_constant(rule.default.value):
                raise Outside(f"the default of `{rule.title}` is no constant")
            default = constant(rule.default.value)
        functions = tuple(chain.function for chain in chains)
        is_same = is_same_constant(rule)
        table = table_of(needs) if rule.shape is Shape.VALUE else None
        if table is None:
            return value_rule(lambda _run: functions, default, is_same)
        place, chosen, rest = table
        find = terms.input_term(place)
        parts = {text: tuple(functions[n] for n in found) for text, found in chosen.items()}
        others = tuple(functions[n] for n in rest)

        def choose(run: Run) -> tuple[RuleFn, ...]:
            value = find(run, [])
            return parts.get(value, others) if type(value) is str else others

        return value_rule(choose, default, is_same)
