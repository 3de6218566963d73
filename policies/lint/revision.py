"""The rule about a revision: what it lets in that the one before did not.

Theory of operation. Requests are made from what both revisions write: each ALLOW rule of the new
one, alone and joined with each DENY rule of the old one. Both are asked about every request, at
each workload whose policies changed. What is told was answered by both; what no request shows is
not told, so silence is no proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from policies.decision import Decision, Effect
from policies.diagnostic import Location
from policies.lint.cover import alternatives
from policies.lint.facts import Attached, Facts
from policies.lint.finding import Related, Spot
from policies.lint.logic import meaning_of
from policies.lint.registry import rule
from policies.lint.witness import home_of, probes_of, single_values, witnesses
from policies.mesh import Mesh
from policies.model import Action, AuthorizationPolicy, Metadata, Resource
from policies.request import Request, Workload

# BUDGET: requests that are tried at one workload.
_TRIED_MOST: Final = 512


@dataclass(frozen=True, slots=True)
class _Place:
    """A workload with the policies that apply to it in both revisions."""

    workload: Workload
    old: tuple[AuthorizationPolicy, ...]
    new: tuple[AuthorizationPolicy, ...]


@rule("MW0511")
def wider_revision(facts: Facts) -> Iterator[Spot]:
    """A request that the revision before refused and this one lets in."""
    before = facts.before
    if before is None:
        return
    mesh = facts.mesh
    told: set[str] = set()
    for place in _changed_places(facts, before, mesh):
        wider, is_narrower = _compare(facts, place, before, mesh)
        for request, old, new in wider:
            by = _cause(place, old, new)
            if by is None or str(by.location) in told:
                continue
            told.add(str(by.location))
            less = ", and less of others" if is_narrower else ""
            yield Spot(
                message=f"the revision lets in more than the one before{less}",
                location=by.location,
                resource=resource_name_of(by),
                path="spec.rules",
                related=_refused_by(old),
                claims=(
                    facts.claim(request, Effect.ALLOW),
                    facts.claim(request, Effect.DENY, before),
                ),
            )


def resource_name_of(meta: Metadata) -> str:
    """Return the name of the policy with this metadata."""
    return f"AuthorizationPolicy/{meta.namespace}/{meta.name}"


def _changed_places(facts: Facts, before: tuple[Resource, ...], mesh: Mesh) -> Iterator[_Place]:
    """Yield every workload, known or meant by a selector, whose policies changed."""
    olds = [each for each in before if isinstance(each, AuthorizationPolicy)]
    old, new = Attached(olds, mesh), Attached(facts.others, mesh)
    homes = [each.as_asked() for each in facts.workloads]
    homes += [home_of(policy) for policy in (*facts.others, *olds)]
    unique = {(each.namespace, frozenset(each.labels.items())): each for each in homes}
    for workload in unique.values():
        place = _Place(workload, tuple(old.to(workload)), tuple(new.to(workload)))
        if set(map(_meaning, place.old)) != set(map(_meaning, place.new)):
            yield place


def _meaning(policy: AuthorizationPolicy) -> Any:
    rules = frozenset(map(meaning_of, policy.rules))
    return policy.action, policy.dry_run, policy.provider, rules


def _compare(
    facts: Facts, place: _Place, before: tuple[Resource, ...], mesh: Mesh
) -> tuple[list[tuple[Request, Decision, Decision]], bool]:
    """Return what is let in newly, with both answers, and whether anything no more is."""
    wider = []
    is_narrower = False
    requests = list(islice(_requests(place, mesh), _TRIED_MOST))
    olds = [facts.ask(request, before) for request in requests]
    for request, old in zip(requests, olds, strict=True):
        new = facts.ask(request)
        if old.is_allowed is not new.is_allowed:
            is_narrower = is_narrower or old.is_allowed
            wider += [(request, old, new)] if new.is_allowed else []
    return wider, is_narrower


def _requests(place: _Place, mesh: Mesh) -> Iterator[Request]:
    """Yield what is tried at a workload."""
    yield from probes_of(place.workload, mesh)
    for policy in (*place.new, *place.old):
        for each in policy.rules:
            for single in single_values(each):
                yield from witnesses(policy, single, mesh, place.workload)
    denies = [
        (policy, alternative)
        for policy in (*place.old, *place.new)
        if policy.action is Action.DENY
        for each in policy.rules
        for alternative in alternatives(each)
    ]
    for policy in place.new:
        for each in policy.rules if policy.action is Action.ALLOW else ():
            for _, alternative in denies:
                joined = replace(each, when=(*each.when, *alternative))
                yield from witnesses(policy, joined, mesh, place.workload, most=1)


def _cause(place: _Place, old: Decision, new: Decision) -> Metadata | None:
    """Return the policy that lets the request in, or the changed one that no longer refuses it."""
    refs = [decision.rule for decision in (new, old) if decision.rule is not None]
    for ref in refs:
        for policy in place.new:
            meta = policy.metadata
            if (meta.namespace, meta.name) == (ref.namespace, ref.policy):
                return meta
    policies: Sequence[AuthorizationPolicy] = place.new or place.old
    return policies[0].metadata if policies else None


def _refused_by(old: Decision) -> tuple[Related, ...]:
    if old.rule is None:
        return ()
    place = Location(old.rule.file, old.rule.line)
    return (Related(message="this rule refused it before", location=place),)
