"""Clauses as closures: names are resolved, literals become steps, terms functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from opa_bridge.builtin_table import BUILTINS as OPA_BUILTINS
from opa_bridge.direct import bodies, terms
from opa_bridge.direct.bodies import Step, Steps
from opa_bridge.direct.builtins import BUILTINS
from opa_bridge.direct.conditions import constant, is_constant
from opa_bridge.direct.negation import taken_out
from opa_bridge.direct.program import Document, Program, Rule
from opa_bridge.direct.rules import RuleFn, agree
from opa_bridge.direct.run import Run
from opa_bridge.direct.scope import Scope
from opa_bridge.direct.syntax import (
    Array,
    Assign,
    Body,
    Call,
    Clause,
    Comprehension,
    Condition,
    Declare,
    Every,
    Literal,
    Object,
    Outside,
    Ref,
    Scalar,
    SetOf,
    Shape,
    SomeIn,
    Source,
    Term,
    Var,
)
from opa_bridge.direct.terms import Frame, TermFn
from opa_bridge.direct.values import UNDEFINED, is_equal
from opa_bridge.polyfills import function_name

# How a module that was respelled for the library calls what has a polyfill.
_RESPELLED: Final = {function_name(name): name for name in OPA_BUILTINS}


class Rules(Protocol):
    """What compiles the rules that a clause refers to."""

    def function(self, rule: Rule) -> RuleFn:
        """Return a function of the policy."""
        ...

    def value(self, rule: Rule) -> TermFn:
        """Return a rule's value as a term."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """A term that stands for a place of the frame; only this file makes one."""

    number: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A clause with its `else`; `iterates` when it may have solutions of several values."""

    function: RuleFn
    iterates: bool


class ClauseCompiler:
    """Compiles clauses of one module."""

    def __init__(self, rules: Rules, program: Program, source: Source) -> None:
        self._rules = rules
        self._program = program
        self._source = source

    def chain(self, clause: Clause) -> Chain:
        """Return a clause as a function."""
        try:
            if clause.shape is Shape.SET:
                return self._members(clause)
            return self._alternatives(clause)
        except Outside as exc:
            raise exc.at(self._source.file, clause.line) from None

    def _alternatives(self, clause: Clause) -> Chain:
        found = self._one(clause)
        if clause.otherwise is None:
            return found
        first, second = found.function, self._alternatives(clause.otherwise)
        otherwise = second.function

        def either(run: Run, arguments: Sequence[Any]) -> Any:
            value = first(run, arguments)
            return otherwise(run, arguments) if value is UNDEFINED else value

        return Chain(either, found.iterates or second.iterates)

    def _one(self, clause: Clause) -> Chain:
        scope = Scope()
        steps = Steps()
        self._parameters(clause, scope, steps)
        self._literals(clause.body, scope, steps)
        value = self.term(clause.value, scope)
        scope.check()
        iterates = steps.iterates and not is_constant(clause.value)

        def end(run: Run, frame: Frame) -> bool:
            found = value(run, frame)
            if found is UNDEFINED:
                return False
            if frame[0] is UNDEFINED:
                frame[0] = found
            else:
                agree(run, frame[0], found)
            return not iterates

        step = steps.ending(end)

        def function(run: Run, arguments: Sequence[Any]) -> Any:
            frame: Frame = [UNDEFINED] * scope.size
            frame[1 : 1 + len(arguments)] = arguments
            step(run, frame)
            return frame[0]

        return Chain(function, iterates)

    def _parameters(self, clause: Clause, scope: Scope, steps: Steps) -> None:
        """Give each parameter its place, in order behind the first."""
        for parameter in clause.parameters:
            if isinstance(parameter, Scalar):
                place, value = scope.new_place(), terms.constant_term(parameter.value)
                test = terms.builtin_term(is_equal, [terms.place_term(place), value])
                steps.test(bodies.condition(test))
            else:
                scope.declare_value(parameter.name)

    def _members(self, clause: Clause) -> Chain:
        scope = Scope()
        steps = Steps()
        self._literals(clause.body, scope, steps)
        step = steps.ending(bodies.collecting(0, self.term(clause.value, scope)))
        scope.check()

        def function(run: Run, _arguments: Sequence[Any]) -> Any:
            frame: Frame = [UNDEFINED] * scope.size
            frame[0] = []
            step(run, frame)
            return frame[0]

        return Chain(function, iterates=False)

    # -- literals

    def _body(self, body: Body, scope: Scope, end: Step) -> Step:
        steps = Steps()
        self._literals(body, scope, steps)
        scope.check()
        return steps.ending(end)

    def _literals(self, body: Body, scope: Scope, steps: Steps) -> None:
        for literal in body:
            try:
                self._literal(literal, scope, steps)
            except Outside as exc:
                raise exc.at(self._source.file, literal.line) from None

    def _literal(self, literal: Literal, scope: Scope, steps: Steps) -> None:
        match literal:
            case Condition(negated=True):
                core = self.term(literal.term, scope)
                needed = [
                    self.term(each, scope)
                    for each in taken_out(literal.term, lambda name: scope.find(name) is not None)
                ]
                steps.test(bodies.negation(core, needed))
            case Condition():
                term = self._extracted(literal.term, scope, steps)
                steps.test(bodies.condition(self.term(term, scope)))
            case Assign():
                self._assign(literal, scope, steps)
            case Declare():
                for name in literal.names:
                    scope.declare(name, bound=False)
            case SomeIn():
                domain = self.term(self._extracted(literal.domain, scope, steps), scope)
                key, value = scope.declare_value(literal.key), scope.declare_value(literal.value)
                steps.loop(domain, key, value)
            case Every():
                domain = self.term(literal.domain, scope)
                inner = Scope(scope)
                key, value = inner.declare_value(literal.key), inner.declare_value(literal.value)
                body = self._body(literal.body, inner, lambda _run, _frame: True)
                steps.test(bodies.every(domain, key, value, body))

    def _assign(self, literal: Assign, scope: Scope, steps: Steps) -> None:
        term = self.term(self._extracted(literal.term, scope, steps), scope)
        if not literal.unifies:
            steps.test(bodies.assignment(scope.declare(literal.name), term))
        elif scope.is_unbound(literal.name):
            steps.test(bodies.assignment(scope.bind(literal.name), term))
        else:
            other = self.term(Var(literal.name), scope)
            steps.test(bodies.condition(terms.builtin_term(is_equal, [other, term])))

    def _extracted(self, term: Term, scope: Scope, steps: Steps) -> Term:
        """Return a term whose references bind nothing, with their iterations in front of it."""
        match term:
            case Ref():
                return self._extracted_ref(term, scope, steps)
            case Call():
                found = tuple(self._extracted(each, scope, steps) for each in term.arguments)
                return replace(term, arguments=found)
            case Array() | SetOf():
                found = tuple(self._extracted(each, scope, steps) for each in term.items)
                return replace(term, items=found)
            case Object():
                items = tuple((k, self._extracted(v, scope, steps)) for k, v in term.items)
                return replace(term, items=items)
            case _:
                return term

    def _extracted_ref(self, ref: Ref, scope: Scope, steps: Steps) -> Term:
        head: Any = ref.head
        path: list[Term] = []
        for step in ref.path:
            if not isinstance(step, Var) or not self._binds(step.name, scope):
                path.append(self._extracted(step, scope, steps))
                continue
            domain = self._reference(head, path, scope)
            value = scope.new_place()
            key = scope.new_place() if step.name == "_" else scope.bind(step.name)
            steps.loop(domain, key, value)
            head, path = _Place(value), []
        return Ref(head, tuple(path)) if path else head

    def _binds(self, name: str, scope: Scope) -> bool:
        """Return whether a name in brackets gets its value there; declare one that nobody did."""
        if name == "_" or scope.is_unbound(name):
            return True
        is_known = (
            scope.find(name) is not None
            or name in ("input", "data")
            or name in self._source.imports
            or self._program.defines(self._source.package, name)
        )
        if is_known:
            return False
        if not scope.is_outermost:
            raise Outside(f"`{name}` is declared nowhere")
        # What was looked for is not seen: this is where it begins.
        scope.begin(name)
        return True

    # -- terms

    def term(self, term: Any, scope: Scope) -> TermFn:
        """Return a term that binds nothing."""
        if isinstance(term, _Place):
            return terms.place_term(term.number)
        if not isinstance(term, (Ref, Var, Call, Comprehension)) and is_constant(term):
            return terms.constant_term(constant(term))
        match term:
            case Var():
                return self._reference(term, [], scope)
            case Ref():
                return self._reference(term.head, term.path, scope)
            case Call():
                return self._call(term, scope)
            case Comprehension():
                return self._comprehension(term, scope)
            case _:
                return self._made(term, scope)

    def _made(self, term: Term, scope: Scope) -> TermFn:
        """Return an array, a set or an object of terms."""
        match term:
            case Array():
                return terms.array_term([self.term(each, scope) for each in term.items])
            case SetOf():
                return terms.set_term([self.term(each, scope) for each in term.items])
            case Object():
                return terms.object_term([(k, self.term(v, scope)) for k, v in term.items])
            case _:
                raise Outside("a term that is not known")

    def _comprehension(self, term: Comprehension, scope: Scope) -> TermFn:
        inner = Scope(scope)
        place = inner.new_place()
        steps = Steps()
        self._literals(term.body, inner, steps)
        body = steps.ending(bodies.collecting(place, self.term(term.term, inner)))
        inner.check()
        return bodies.comprehension(place, body, is_set=term.is_set)

    def _reference(self, head: Any, path: Sequence[Term], scope: Scope) -> TermFn:
        """Return what a name and a way from there lead to."""
        steps = [self.term(step, scope) for step in path]
        if isinstance(head, _Place):
            return terms.path_term(terms.place_term(head.number), steps)
        place = scope.find(head.name)
        if place is not None:
            return terms.path_term(terms.place_term(place), steps)
        start = self._document(head.name)
        fixed = _fixed_steps(path)
        whole = (*start, *fixed)
        rest = steps[len(fixed) :]
        if whole[0] == "input":
            return terms.path_term(terms.input_term(whole[1:]), rest)
        found, left = self._program.find(whole[1:])
        more = [terms.constant_term(step) for step in left]
        if isinstance(found, Document):
            return terms.path_term(terms.constant_term(found.value), [*more, *rest])
        return terms.path_term(self._rules.value(found), [*more, *rest])

    def _document(self, name: str) -> tuple[str, ...]:
        """Return the path of the document that a name stands for."""
        if name in ("input", "data"):
            return (name,)
        is_rule = self._program.defines(self._source.package, name)
        if name in self._source.imports:
            if is_rule:
                raise Outside(f"`{name}` is imported and defined")
            return self._source.imports[name]
        if not is_rule:
            raise Outside(f"nothing gives `{name}` a value")
        return ("data", *self._source.package, name)

    def _call(self, call: Call, scope: Scope) -> TermFn:
        arguments = [self.term(each, scope) for each in call.arguments]
        name = _RESPELLED.get(call.name, call.name)
        head, *steps = name.split(".")
        if scope.find(head) is not None:
            raise Outside(f"`{head}` is called")
        is_own = (
            head == "data"
            or head in self._source.imports
            or (self._program.defines(self._source.package, head))
        )
        if not is_own:
            arity, function = BUILTINS.get(name, (-1, is_equal))
            if arity != len(arguments):
                raise Outside(f"the built-in `{name}`")
            return terms.builtin_term(function, arguments)
        rule, left = self._program.find((*self._document(head), *steps)[1:])
        if not isinstance(rule, Rule) or left or rule.shape is not Shape.FUNCTION:
            raise Outside(f"a call of `{name}`, which is no function")
        if any(len(clause.parameters) != len(arguments) for _, clause in rule.clauses):
            raise Outside(f"`{name}` is called with other arguments")
        return terms.function_term(self._rules.function(rule), arguments)


def _fixed_steps(path: Sequence[Term]) -> list[str]:
    """Return the texts at the beginning of a path."""
    found: list[str] = []
    for step in path:
        if not isinstance(step, Scalar) or not isinstance(step.value, str):
            break
        found.append(step.value)
    return found
