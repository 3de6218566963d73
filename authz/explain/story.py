"""The story of a decision: what was considered, what each condition met, who decided.

The answer, the deciding rule, the near miss and the shadows are those of the walk; a
rule's ticks and crosses come from the compiled rule that the walk tried. Nothing is
decided here.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from authz.explain.attached import why_considered, why_passed_over
from authz.explain.had import what_it_had
from authz.explain.standing import Standing, Standings
from authz.serving_state import ServingState
from authz.walk import Basis, Outcome
from policies.decision import Decision, RuleRef
from policies.diagnostic import Location
from policies.matchers import Alternative, CompiledClause, CompiledPolicy, CompiledRule
from policies.mesh import Mesh
from policies.model import Action, AuthorizationPolicy
from policies.request import Request, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueStory:
    """One value of a condition; `fits` tells of the value itself, `negated` that it keeps out."""

    text: str
    negated: bool
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClauseStory:
    """One condition: how its author spelled it, what the request had, whether it holds."""

    spelled: str
    key: str
    holds: bool
    had: str
    values: tuple[ValueStory, ...]
    location: Location

    @property
    def place(self) -> str:
        """`file:line:column` of the condition."""
        return str(self.location)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStory:
    """One entry of `from` or `to`, by its number, or all of `when`; its clauses are AND-ed."""

    kind: str
    number: int
    holds: bool
    clauses: tuple[ClauseStory, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleStory:
    """One rule. `failing` are the conditions it lacked; one of them makes it a near miss.

    `can_match` is false for a rule that matches nothing of this kind (an HTTP rule and a
    connection); it has no groups.
    """

    ref: RuleRef
    matches: bool
    groups: tuple[GroupStory, ...] = ()
    failing: tuple[str, ...] = ()
    can_match: bool = True

    @property
    def is_near_miss(self) -> bool:
        """Whether a single condition kept the rule from matching."""
        return not self.matches and len(self.failing) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyStory:
    """A policy that applies to the workload, why, and what became of it."""

    ref: RuleRef
    action: Action
    why: str
    standing: Standing
    rules: tuple[RuleStory, ...]
    provider: str = ""

    @property
    def name(self) -> str:
        """`namespace/name`."""
        return self.ref.name


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """A policy that does not apply to the workload, and why not."""

    ref: RuleRef
    action: Action
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """The whole story. `policies` stand in the order in which the layers ask them."""

    outcome: Outcome
    policies: tuple[PolicyStory, ...] = ()
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def decision(self) -> Decision:
        """The walk's answer."""
        return self.outcome.decision

    @property
    def near_misses(self) -> tuple[RuleStory, ...]:
        """The ALLOW rules that lacked one condition, where none matched and the answer is no."""
        if self.decision.is_allowed:
            return ()
        return tuple(
            rule
            for policy in self.policies
            if policy.action is Action.ALLOW and policy.standing is Standing.NO_MATCH
            for rule in policy.rules
            if rule.is_near_miss
        )


def tell(outcome: Outcome, state: ServingState) -> Story:
    """Return the story of an outcome that the walk reached with this state."""
    basis = outcome.basis
    workload = outcome.request.workload
    if basis is None or workload is None:
        return Story(outcome=outcome)
    teller = _Teller(outcome, basis, state.snapshot.mesh)
    written = {policy.metadata.ref(): policy for policy, _ in state.snapshot.policies}
    applied = applied_policies(basis)
    names = {policy.ref for policy in applied}
    return Story(
        outcome=outcome,
        policies=tuple(teller.policy(each, written[each.ref]) for each in applied),
        passed_over=tuple(
            _passed_over(policy, workload, state.snapshot.mesh)
            for ref, policy in written.items()
            if ref not in names
        ),
    )


def applied_policies(basis: Basis) -> tuple[CompiledPolicy, ...]:
    """Return the policies of a workload in the order of the layers, AUDIT and dry-run last."""
    found = basis.policies
    custom = [policy for named in found.custom.values() for policy in named]
    return (*custom, *found.deny, *found.allow, *found.audit, *found.dry_run)


def seen_by(policy: CompiledPolicy, outcome: Outcome, basis: Basis) -> Request:
    """Return the request as a policy saw it."""
    # CUSTOM stands before the verification of tokens, which takes headers away.
    if policy.action is Action.CUSTOM:
        return basis.custom_seen.get(policy.provider, outcome.request)
    return basis.seen


def _passed_over(policy: AuthorizationPolicy, workload: Workload, mesh: Mesh) -> PassedOver:
    return PassedOver(
        ref=policy.metadata.ref(),
        action=policy.action,
        why=why_passed_over(policy, workload, mesh),
    )


class _Teller:
    """Tells of one outcome's policies, one after the other, in the order of the layers."""

    def __init__(self, outcome: Outcome, basis: Basis, mesh: Mesh) -> None:
        self._outcome, self._basis = outcome, basis
        self._carriers: Collection[str] = outcome.token_carriers
        self._mesh = mesh
        self._standings = Standings(outcome.decision)

    def policy(self, policy: CompiledPolicy, written: AuthorizationPolicy) -> PolicyStory:
        """Return the story of one policy."""
        request = seen_by(policy, self._outcome, self._basis)
        rules = self._rules(policy, written, request)
        return PolicyStory(
            ref=policy.ref,
            action=policy.action,
            why=why_considered(written, self._mesh),
            standing=self._standings.of(policy, matches=any(rule.matches for rule in rules)),
            rules=rules,
            provider=policy.provider,
        )

    def _rules(
        self, policy: CompiledPolicy, written: AuthorizationPolicy, request: Request
    ) -> tuple[RuleStory, ...]:
        compiled = {rule.ref.rule: rule for rule in policy.rules}
        return tuple(
            self._rule(compiled[number], request)
            if number in compiled
            else RuleStory(
                ref=written.metadata.ref(number, rule.location.line), matches=False, can_match=False
            )
            for number, rule in enumerate(written.rules)
        )

    def _rule(self, rule: CompiledRule, request: Request) -> RuleStory:
        groups = [("from", number, each) for number, each in enumerate(rule.sources)]
        groups += [("to", number, each) for number, each in enumerate(rule.operations)]
        groups += [("when", 0, rule.when)] if rule.when else []
        return RuleStory(
            ref=rule.ref,
            matches=rule.matches(request),
            groups=tuple(self._group(*each, request) for each in groups),
            failing=tuple(clause.spelled for clause in rule.failing(request)),
        )

    def _group(self, kind: str, number: int, clauses: Alternative, request: Request) -> GroupStory:
        told = tuple(self._clause(clause, request) for clause in clauses)
        return GroupStory(
            kind=kind, number=number, holds=all(each.holds for each in told), clauses=told
        )

    def _clause(self, clause: CompiledClause, request: Request) -> ClauseStory:
        source = clause.source
        halves = (
            (source.values, clause.positive, False),
            (source.not_values, clause.negative, True),
        )
        return ClauseStory(
            spelled=source.spelled,
            key=source.key,
            holds=clause.matches(request),
            had=what_it_had(source.key, request, self._mesh, self._carriers),
            values=tuple(
                ValueStory(text=value.text, negated=negated, fits=test(request))
                for values, tests, negated in halves
                for value, test in zip(values, tests, strict=True)
            ),
            location=source.location,
        )
