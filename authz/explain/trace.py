"""The trace of a decision for its audit record: the story's bones, bounded, without the request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from audit.settings import AuditSettings, TraceOf
from audit.trace import TracedPolicy, TracedRule, TraceFacts
from authz.explain.standing import Standings
from authz.explain.story import applied_policies, seen_by
from authz.walk import Outcome
from policies.matchers import CompiledPolicy, CompiledRule
from policies.request import Request

# BUDGET: rules that are tried for one trace; a workload has tens, and thousands only by mistake.
_TRIED_MAX: Final = 500

Trace = Callable[[Outcome], TraceFacts | None]
"""Returns the trace that goes on record with an outcome, or None."""


def no_trace(outcome: Outcome) -> TraceFacts | None:
    """Trace nothing."""
    return None


def tracer(settings: AuditSettings) -> Trace:
    """Return what traces as the operator wants it."""
    if settings.trace is TraceOf.OFF:
        return no_trace
    most, traces_all = settings.trace_rules, settings.trace is TraceOf.ALL

    def trace(outcome: Outcome) -> TraceFacts | None:
        wanted = traces_all or not outcome.decision.is_allowed
        return trace_of(outcome, most) if wanted else None

    return trace


def trace_of(outcome: Outcome, most: int) -> TraceFacts | None:
    """Return the policies that were asked with the nearest `most` rules of them all.

    None where no policy was looked at. The ticks are the compiled rules' own, as in the story.
    """
    basis = outcome.basis
    if basis is None:
        return None
    standings = Standings(outcome.decision)
    tried: list[tuple[CompiledPolicy, str, list[TracedRule]]] = []
    left = _TRIED_MAX
    for policy in applied_policies(basis):
        request = seen_by(policy, outcome, basis)
        rules = [_traced(rule, request) for rule in policy.rules[:left]]
        left -= len(rules)
        standing = standings.of(policy, matches=any(rule.matches for rule in rules))
        tried.append((policy, str(standing), rules))
    every = [rule for _, _, rules in tried for rule in rules]
    # A rule that matched, then those that lacked least, tell most.
    ordered = sorted(every, key=lambda rule: (not rule.matches, len(rule.failing)))
    kept = {id(rule) for rule in ordered[:most]}
    told = [
        TracedPolicy(
            policy=f"{policy.ref.namespace}/{policy.ref.policy}",
            action=str(policy.action),
            standing=standing,
            rules=tuple(rule for rule in rules if id(rule) in kept),
        )
        for policy, standing, rules in tried
    ]
    total = sum(len(policy.rules) for policy, _, _ in tried)
    return TraceFacts(_bounded(told, most), total - min(len(every), most))


def _bounded(told: list[TracedPolicy], most: int) -> tuple[TracedPolicy, ...]:
    """Return all policies that have a rule to tell, and of the others as many as there is room."""
    room = max(0, most - sum(bool(each.rules) for each in told))
    bare = [each for each in told if not each.rules][:room]
    return tuple(each for each in told if each.rules or each in bare)


def _traced(rule: CompiledRule, request: Request) -> TracedRule:
    matches = rule.matches(request)
    failing = () if matches else tuple(clause.spelled for clause in rule.failing(request))
    return TracedRule(rule.ref.rule or 0, rule.ref.place, matches, failing)
