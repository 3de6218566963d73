"""Rules about what ALLOW policies come to together: they unite, and never limit each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from policies.decision import Effect, Layer
from policies.lint.claims import Claim
from policies.lint.cover import alternatives, list_covers
from policies.lint.cover_index import Placed, Scope, Scopes, scope_of
from policies.lint.facts import Facts, resource_name
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.lint.witness import home_of, probes_of, witnesses
from policies.mesh import Mesh, MeshMode
from policies.model import Action, AuthorizationPolicy, Clause, Rule

Lone = tuple[AuthorizationPolicy, Rule, Clause]
"""A rule of which one alternative has one condition alone."""
# BUDGET: requests of a rule that are tried against the policies of wider scopes.
_TRIED_MOST: Final = 4


@rule("MW0507")
def union_of_everything(facts: Facts) -> Iterator[Spot]:
    """ALLOW rules of which one asks for what another excludes: together they are everything."""
    mesh = facts.mesh
    if mesh.mode is MeshMode.ZTUNNEL:
        return
    asked = _Asked(Scopes(facts.others, mesh))
    for policy in facts.others:
        if policy.action is not Action.ALLOW or policy.dry_run:
            continue
        for each in policy.rules:
            found = next(asked.complements(policy, each, mesh), None)
            if found is None:
                continue
            other, wide, clause = found
            both = (policy,) if other is policy else (policy, other)
            yield Spot(
                message=f"with `{resource_name(other).partition('/')[2]}` the rule allows every"
                f" request: one excludes by `{clause.spelled}` what the other asks for",
                location=each.location,
                resource=resource_name(policy),
                path=f"spec.rules[{policy.rules.index(each)}]",
                related=(Related(message="the other half", location=wide.location),),
                claims=tuple(
                    facts.claim(request, Effect.ALLOW, both, Layer.ALLOW)
                    for request in (
                        *probes_of(home_of(policy), mesh),
                        *witnesses(other, wide, mesh, home_of(policy)),
                    )
                ),
            )
            break


class _Asked:
    """Conditions of ALLOW policies that stand alone in an alternative, by scope and key."""

    def __init__(self, scopes: Scopes) -> None:
        self._scopes = scopes
        self._found: dict[Scope, dict[str, list[Lone]]] = {}

    def _of(self, scope: Scope) -> dict[str, list[Lone]]:
        if scope not in self._found:
            found: dict[str, list[Lone]] = defaultdict(list)
            for policy in self._scopes.of(Action.ALLOW, scope):
                for each in policy.rules:
                    for alternative in alternatives(each):
                        if len(alternative) == 1 and not alternative[0].not_values:
                            found[alternative[0].key].append((policy, each, alternative[0]))
            self._found[scope] = found
        return self._found[scope]

    def complements(self, policy: AuthorizationPolicy, each: Rule, mesh: Mesh) -> Iterator[Lone]:
        """Yield what asks for all that an alternative of `each` excludes and does nothing else."""
        for alternative in alternatives(each):
            if len(alternative) != 1 or alternative[0].values:
                continue
            key, excluded = alternative[0].key, alternative[0].not_values
            for scope in self._scopes.wider(policy):
                for other, wide, clause in self._of(scope).get(key, ()):
                    if list_covers(key, clause.values, excluded, mesh):
                        yield other, wide, clause


@rule("MW0508")
def widened_scope(facts: Facts) -> Iterator[Spot]:
    """An ALLOW that lets in callers to whom an ALLOW of a wider scope meant to limit all."""
    mesh = facts.mesh
    if mesh.mode is MeshMode.ZTUNNEL:
        return
    scopes = Scopes(facts.others, mesh)
    for policy in facts.others:
        if policy.action is not Action.ALLOW or policy.dry_run:
            continue
        limits = [
            other
            for scope in scopes.wider(policy)
            if scope != scope_of(policy)
            for other in scopes.of(Action.ALLOW, scope)
            if _is_about_callers(other)
        ]
        spot = _widening(facts, policy, tuple(limits), mesh) if limits else None
        if spot is not None:
            yield spot


def _is_about_callers(policy: AuthorizationPolicy) -> bool:
    """Whether a policy says who may come and nothing else: it reads as a limit."""
    return bool(policy.rules) and all(
        each.sources and not each.operations and not each.when for each in policy.rules
    )


def _widening(
    facts: Facts, policy: AuthorizationPolicy, limits: tuple[AuthorizationPolicy, ...], mesh: Mesh
) -> Spot | None:
    """Return the finding with a caller whom only `policy` lets in."""
    for place, each in enumerate(policy.rules):
        found = _outsider((policy, each), limits, facts, mesh)
        if found is not None:
            return Spot(
                message="the rule lets in callers whom"
                f" `{resource_name(limits[0]).partition('/')[2]}` does not: ALLOW policies unite,"
                " so that one does not limit another",
                location=each.location,
                resource=resource_name(policy),
                path=f"spec.rules[{place}]",
                related=(Related(message="the wider scope", location=limits[0].rules[0].location),),
                claims=found,
            )
    return None


def _outsider(
    placed: Placed, limits: tuple[AuthorizationPolicy, ...], facts: Facts, mesh: Mesh
) -> tuple[Claim, ...] | None:
    policy, each = placed
    for request in witnesses(policy, each, mesh, home_of(policy), most=_TRIED_MOST):
        if facts.ask(request, limits).effect is Effect.DENY:
            return (
                facts.claim(request, Effect.ALLOW, (*limits, policy), Layer.ALLOW),
                facts.claim(request, Effect.DENY, limits, Layer.ALLOW),
            )
    return None
