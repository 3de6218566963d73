"""Deciding without knowing everything: the two ends of what could have been.

Theory of operation. A condition on something that is not known could hold or not. Once every
such condition is taken so that the request is kept out, once so that it is let in: a rule
matches the more, the more its conditions hold, so no other reading lies outside the two.
Where both ends give one answer, it is the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from policies.index import PolicyIndex
from policies.matchers import Alternative, CompiledClause, CompiledPolicy, CompiledRule
from policies.model import Action
from policies.request import Request
from policies.snapshot import WorkloadPolicies


def closing(
    policies: WorkloadPolicies, custom: frozenset[str], rules: frozenset[str]
) -> WorkloadPolicies:
    """Return policies that keep out whenever unknown keys leave a doubt.

    `custom` are the keys unknown to CUSTOM policies, `rules` those unknown to the others.
    """
    return _bent(policies, custom, rules, is_closing=True)


def opening(
    policies: WorkloadPolicies, custom: frozenset[str], rules: frozenset[str]
) -> WorkloadPolicies:
    """Return policies that let in whenever unknown keys leave a doubt."""
    return _bent(policies, custom, rules, is_closing=False)


def _bent(
    policies: WorkloadPolicies, custom: frozenset[str], rules: frozenset[str], *, is_closing: bool
) -> WorkloadPolicies:
    asked: Mapping[str, PolicyIndex] = {
        name: _all_bent(index, custom, holds=is_closing) for name, index in policies.custom.items()
    }
    return replace(
        policies,
        custom=asked,
        deny=_all_bent(policies.deny, rules, holds=is_closing),
        allow=_all_bent(policies.allow, rules, holds=not is_closing),
    )


def _all_bent(
    policies: Iterable[CompiledPolicy], keys: frozenset[str], *, holds: bool
) -> PolicyIndex:
    index = PolicyIndex()
    for policy in policies:
        # WHY one by one: an index looks at the values of conditions, which count no more.
        index = index.with_policy(_policy_bent(policy, keys, holds=holds))
    return index


def _policy_bent(policy: CompiledPolicy, keys: frozenset[str], *, holds: bool) -> CompiledPolicy:
    assert policy.action is not Action.AUDIT, "an audit policy decides nothing"

    def bent(alternative: Alternative) -> Alternative:
        return tuple(
            _fixed(clause, holds=holds) if clause.source.key in keys else clause
            for clause in alternative
        )

    def rule_bent(rule: CompiledRule) -> CompiledRule:
        return replace(
            rule,
            sources=tuple(map(bent, rule.sources)),
            operations=tuple(map(bent, rule.operations)),
            when=bent(rule.when),
        )

    return replace(policy, rules=tuple(map(rule_bent, policy.rules)))


def _fixed(clause: CompiledClause, *, holds: bool) -> CompiledClause:
    return replace(clause, positive=(), negative=() if holds else (_always,))


def _always(_request: Request) -> bool:
    return True
