"""Why a case failed: the one condition that kept a rule from matching, with its place.

Told from the same story as `policy explain` tells, of the walk that gave the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from authz.explain.standing import Standing
from authz.explain.story import GroupStory, PolicyStory, RuleStory, Story, tell
from authz.policytest.model import Expectation
from authz.policytest.result import Pointer
from authz.serving_state import ServingState
from authz.walk import Outcome
from policies.decision import Effect, Layer
from policies.diagnostic import Location, shown
from policies.model import Action

# BUDGET: near misses that are told of one failure; more of them point nowhere.
_TOLD_MAX: Final = 3
_VALUES_MAX: Final = 4


def near_misses(expect: Expectation, outcome: Outcome, state: ServingState) -> tuple[Pointer, ...]:
    """Return which rules nearly did what was expected, each with the condition that failed."""
    story = tell(outcome, state)
    return tuple(islice(_pointers(expect, story), _TOLD_MAX))


def _pointers(expect: Expectation, story: Story) -> Iterator[Pointer]:
    decision = story.decision
    if expect.policy:
        yield from _of_policy(expect.policy, story)
    elif expect.decision is Effect.ALLOW and decision.layer is Layer.ALLOW:
        yield from _single(story, Action.ALLOW, "would have allowed")
        if decision.near_miss and not story.near_misses:
            yield Pointer(f"near miss: {decision.near_miss}", Location(""))
    elif expect.decision is Effect.DENY and decision.is_allowed:
        yield from _single(story, Action.DENY, "would have denied")


def _of_policy(expected: str, story: Story) -> Iterator[Pointer]:
    """Yield what kept the expected policy, or its rule, from deciding."""
    name, sharp, number = expected.partition("#")
    for policy in story.policies:
        if policy.name != name or (policy.standing is Standing.DECIDED and not sharp):
            continue
        if policy.standing is Standing.NOT_ASKED:
            place = Location(policy.ref.file, policy.ref.line)
            yield Pointer(f"{name} was not asked: it was decided before", place)
        for rule in policy.rules:
            if not sharp or str(rule.ref.rule) == number:
                yield from _missed(rule, "would have matched")
    for passed in story.passed_over:
        if passed.ref.name == name:
            place = Location(passed.ref.file, passed.ref.line)
            yield Pointer(f"{name} does not apply to the workload: {passed.why}", place)


def _single(story: Story, action: Action, would: str) -> Iterator[Pointer]:
    for policy in story.policies:
        if policy.action is action and policy.standing is Standing.NO_MATCH:
            for rule in _near(policy):
                yield from _missed(rule, would)


def _near(policy: PolicyStory) -> Iterator[RuleStory]:
    return (rule for rule in policy.rules if rule.is_near_miss)


def _missed(rule: RuleStory, would: str) -> Iterator[Pointer]:
    """Yield the conditions that a rule lacked, nothing where it matched."""
    for group in _nearest(rule):
        for clause in group.clauses:
            if clause.holds:
                continue
            listed = [f"{'not ' if each.negated else ''}`{shown(each.text)}`"
                      for each in clause.values]  # fmt: skip
            more = f", … {len(listed) - _VALUES_MAX} more" if len(listed) > _VALUES_MAX else ""
            wanted = ", ".join(listed[:_VALUES_MAX]) + more
            told = (
                f"near miss: {rule.ref.name} {would}, but `{clause.spelled}` wants {wanted} "
                f"and the request has {clause.had}"
            )
            file, line, column = clause.location
            yield Pointer(told, Location(file, line, column))


def _nearest(rule: RuleStory) -> Iterator[GroupStory]:
    """Yield, of the entries of `from` and of `to`, the one that lacked least, and `when`."""
    for kind in ("from", "to", "when"):
        groups = [group for group in rule.groups if group.kind == kind]
        if groups and not any(group.holds for group in groups):
            yield min(groups, key=lambda group: sum(not each.holds for each in group.clauses))
