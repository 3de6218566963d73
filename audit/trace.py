"""How a decision came about, rule by rule: what a record may hold beside the decision itself.

INVARIANT: nothing of a request stands in a trace, only names and places of policies; so there
is nothing in it to mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class TracedRule:
    """One rule: whether it matched, and the conditions it lacked, by their names."""

    rule: int
    place: str
    matches: bool
    failing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TracedPolicy:
    """One policy, `namespace/name`, what became of it, and those of its rules that are told."""

    policy: str
    action: str
    standing: str
    rules: tuple[TracedRule, ...] = ()


@dataclass(frozen=True, slots=True)
class TraceFacts:
    """The policies in the order in which they were asked; `left_out` rules are not told."""

    policies: tuple[TracedPolicy, ...] = ()
    left_out: int = 0


@with_config(_STRICT)
class TracedRulePart(TypedDict):
    """One rule as written."""

    rule: int
    place: str
    matches: bool
    failing: NotRequired[Annotated[list[str], Field(description="the conditions it lacked")]]


@with_config(_STRICT)
class TracedPolicyPart(TypedDict):
    """One policy as written."""

    policy: str
    action: str
    standing: Annotated[
        str, Field(description="`decided`, `matched`, `no_match`, `not_asked` or `shadow`")
    ]
    rules: list[TracedRulePart]


@with_config(_STRICT)
class TracePart(TypedDict):
    """A trace as written."""

    policies: list[TracedPolicyPart]
    left_out: NotRequired[Annotated[int, Field(description="rules that are not told")]]


def trace_part(facts: TraceFacts) -> TracePart:
    """Return the written form."""
    part: TracePart = {"policies": [_policy_part(each) for each in facts.policies]}
    if facts.left_out:
        part["left_out"] = facts.left_out
    return part


def _policy_part(policy: TracedPolicy) -> TracedPolicyPart:
    return {
        "policy": policy.policy,
        "action": policy.action,
        "standing": policy.standing,
        "rules": [_rule_part(rule) for rule in policy.rules],
    }


def _rule_part(rule: TracedRule) -> TracedRulePart:
    part: TracedRulePart = {"rule": rule.rule, "place": rule.place, "matches": rule.matches}
    if rule.failing:
        part["failing"] = list(rule.failing)
    return part
