"""Rules compiled to predicates. The laws of AND and OR live here and nowhere else.

Theory of operation. A compiled rule holds three groups, all of which must hold:
`from` (any entry), `to` (any entry), `when` (every clause). A clause holds when
any of its values matches and none of its not-values does. A group that is not
written holds for every request. Everything that can be wrong with a value was
found at load, so nothing here raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final

from policies.attributes import RequestTest, Scope, attribute_for
from policies.columns import Column, column_for, narrow_rule
from policies.decision import RuleRef
from policies.mesh import Mesh
from policies.model import Action, AuthorizationPolicy, Clause, Rule, Value, same_or_new
from policies.request import Request


@dataclass(frozen=True, slots=True)
class CompiledClause:
    """One clause and its two halves; `source` is what the author wrote."""

    source: Clause
    positive: tuple[RequestTest, ...]
    negative: tuple[RequestTest, ...]

    def matches(self, request: Request) -> bool:
        """Whether any value matches and no not-value does."""
        # WHY loops: these run for every request, and a generator costs more than its tests.
        for test in self.positive:
            if test(request):
                break
        else:
            if self.positive:
                return False
        # "A negative match with an absent attribute is true": NOT of a test that failed.
        for test in self.negative:  # noqa: SIM110 - see above
            if test(request):
                return False
        return True


Alternative = tuple[CompiledClause, ...]
"""One `from` or `to` entry: clauses that are AND-ed."""


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """One rule: any of `sources` AND any of `operations` AND all of `when`."""

    ref: RuleRef
    sources: tuple[Alternative, ...]
    operations: tuple[Alternative, ...]
    when: tuple[CompiledClause, ...]

    def matches(self, request: Request) -> bool:
        """Whether the rule fits the request."""
        if not _any_alternative(self.operations, request):
            return False
        if not _any_alternative(self.sources, request):
            return False
        return _all_match(self.when, request)

    def failing(self, request: Request) -> tuple[Clause, ...]:
        """Return the clauses that kept the rule from matching; of alternatives, the nearest."""
        failed = _nearest(self.sources, request) + _nearest(self.operations, request)
        failed += tuple(clause for clause in self.when if not clause.matches(request))
        return tuple(clause.source for clause in failed)


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """An AuthorizationPolicy ready to match. `ref` names the policy as a whole."""

    ref: RuleRef
    action: Action
    rules: tuple[CompiledRule, ...]
    provider: str = ""
    dry_run: bool = False

    def first_match(self, request: Request) -> RuleRef | None:
        """Return the first rule that matches, in the author's order."""
        for rule in self.rules:
            if rule.matches(request):
                return rule.ref
        return None


_NO_RULE: Final = CompiledRule(RuleRef(namespace="", policy=""), (), (), ())
# BUDGET: predicates remembered while a set is compiled; what repeats does so early.
_KNOWN_MAX: Final = 4096
Predicates = dict[tuple[str, tuple[str, ...], str, bool], tuple[RequestTest, ...]]
"""The predicates of one mesh by key, values, namespace and `wide`: a set asks the same often."""


def compile_policy(
    policy: AuthorizationPolicy,
    mesh: Mesh,
    column: Column | None = None,
    known: Predicates | None = None,
    before: CompiledPolicy | None = None,
) -> CompiledPolicy:
    """Return the policy with every condition turned into a predicate.

    `column` is that of HTTP requests unless one is named; rules that can match
    nothing in it are left out, the others keep their numbers. Predicates that are `known`
    are taken, others become so. `before` is what a policy with the very same metadata and
    the same action was compiled to in the same mesh and column: clauses that both have are taken.
    """
    column = column or column_for(mesh, is_http=True)
    # Where Envoy's message leaves a doubt, an ALLOW must not match by guess and
    # every other action must: "ALLOW narrows on error, DENY widens".
    compiler = _Compiler(
        mesh=mesh,
        namespace=policy.metadata.namespace,
        wide=policy.action is not Action.ALLOW,
        known={} if known is None else known,
        made=_clauses_of(before) if before is not None else {},
    )
    return CompiledPolicy(
        ref=before.ref if before is not None else policy.metadata.ref(),
        action=policy.action,
        rules=tuple(
            _compile_rule(narrowed, _ref(policy, index, before), compiler, _rule_at(before, index))
            for index, rule in enumerate(policy.rules)
            if (narrowed := narrow_rule(rule, policy.action, column)) is not None
        ),
        provider=policy.provider,
        dry_run=policy.dry_run,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compiler:
    """What the predicates of one policy hang on, and those that are there already."""

    mesh: Mesh
    namespace: str
    wide: bool
    known: Predicates
    made: Mapping[int, CompiledClause]

    def clauses(self, clauses: Iterable[Clause], before: Alternative | None) -> Alternative:
        """Return clauses that are AND-ed; those of `before` where they are the same."""
        found = [self.made.get(id(clause)) or self._clause(clause) for clause in clauses]
        return same_or_new(before or (), found)

    def _clause(self, clause: Clause) -> CompiledClause:
        return CompiledClause(
            source=clause,
            positive=self._tests(clause.key, clause.values, wide=self.wide),
            negative=self._tests(clause.key, clause.not_values, wide=not self.wide),
        )

    def _tests(self, key: str, values: tuple[Value, ...], *, wide: bool) -> tuple[RequestTest, ...]:
        if not values:
            return ()
        texts = tuple([value.text for value in values])
        asked = key, texts, self.namespace, wide
        found = self.known.get(asked)
        if found is None:
            attribute = attribute_for(key)
            assert attribute is not None, f"unchecked key `{key}`"
            scope = Scope(mesh=self.mesh, namespace=self.namespace, wide=wide)
            found = tuple([attribute.test(text, scope) for text in texts])
            if len(self.known) < _KNOWN_MAX:
                self.known[asked] = found
        return found


def _ref(policy: AuthorizationPolicy, index: int, before: CompiledPolicy | None) -> RuleRef:
    """Return the reference to a rule: the very same where it has not moved."""
    line = policy.rules[index].location.line
    ref = _rule_at(before, index).ref
    return ref if (ref.rule, ref.line) == (index, line) else policy.metadata.ref(index, line)


def _rule_at(policy: CompiledPolicy | None, index: int) -> CompiledRule:
    """Return a rule of a policy, an empty one where it has none."""
    return _NO_RULE if policy is None or index >= len(policy.rules) else policy.rules[index]


def _clauses_of(policy: CompiledPolicy) -> Mapping[int, CompiledClause]:
    """Return the clauses of a policy by the number of what they were made of, which they hold."""
    return {
        id(clause.source): clause
        for rule in policy.rules
        for group in (*rule.sources, *rule.operations, rule.when)
        for clause in group
    }


def _compile_rule(rule: Rule, ref: RuleRef, compiler: _Compiler, old: CompiledRule) -> CompiledRule:
    sources = [
        compiler.clauses(group, before)
        for group, before in zip_longest(rule.sources, old.sources[: len(rule.sources)])
    ]
    operations = [
        compiler.clauses(group, before)
        for group, before in zip_longest(rule.operations, old.operations[: len(rule.operations)])
    ]
    return CompiledRule(
        ref=ref,
        sources=same_or_new(old.sources, sources),
        operations=same_or_new(old.operations, operations),
        when=compiler.clauses(rule.when, old.when),
    )


def _any_alternative(alternatives: tuple[Alternative, ...], request: Request) -> bool:
    for alternative in alternatives:
        if _all_match(alternative, request):
            return True
    return not alternatives


def _all_match(clauses: tuple[CompiledClause, ...], request: Request) -> bool:
    for clause in clauses:  # noqa: SIM110 - a loop, as in `matches`
        if not clause.matches(request):
            return False
    return True


def _nearest(alternatives: tuple[Alternative, ...], request: Request) -> Alternative:
    """Return the failing clauses of the alternative with the fewest of them."""
    best: Alternative = ()
    for index, alternative in enumerate(alternatives):
        failed = tuple(clause for clause in alternative if not clause.matches(request))
        if not failed:
            return ()
        if index == 0 or len(failed) < len(best):
            best = failed
    return best
