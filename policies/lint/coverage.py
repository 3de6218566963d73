"""Rules about what nobody guards: workloads and tokens that no ALLOW policy speaks of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from policies.attachment import is_attached
from policies.attributes import attribute_for
from policies.decision import Effect, Layer
from policies.diagnostic import shown
from policies.lint.claims import Claim
from policies.lint.facts import Attached, Facts, clauses_of, resource_name, rules_of
from policies.lint.finding import Related, Spot
from policies.lint.inventory import KnownWorkload
from policies.lint.registry import rule
from policies.lint.tokens import may_meet
from policies.lint.witness import probes_of, witnesses
from policies.mesh import Mesh, MeshMode
from policies.model import Action, AuthorizationPolicy, RequestAuthentication
from policies.request import Workload

# BUDGET: requests that are tried at a workload before it counts as guarded.
_TRIED_MOST: Final = 32

Open = tuple[KnownWorkload, Claim]
"""A workload, and a request that nobody keeps from it."""


def _unguarded(facts: Facts, mesh: Mesh, workload: Workload) -> Claim | None:
    """Return a request that is let in because no ALLOW policy applies."""
    for request in probes_of(workload, mesh):
        decision = facts.ask(request)
        if (decision.effect, decision.layer) == (Effect.ALLOW, Layer.DEFAULT):
            return facts.claim(request, Effect.ALLOW, layer=Layer.DEFAULT)
    return None


def _open_workloads(
    facts: Facts, guards: Callable[[Sequence[AuthorizationPolicy]], AuthorizationPolicy | None]
) -> Iterator[tuple[AuthorizationPolicy, list[Open]]]:
    """Yield the policies that look like the guard of workloads which stand open, with those."""
    mesh = facts.mesh
    attached = Attached(facts.others, mesh)
    found: dict[int, tuple[AuthorizationPolicy, list[Open]]] = {}
    for each in facts.workloads:
        policies = attached.to(each.as_asked())
        guard = None if any(map(_is_enforced_allow, policies)) else guards(policies)
        claim = _unguarded(facts, mesh, each.as_asked()) if guard else None
        if guard is not None and claim is not None:
            found.setdefault(id(guard), (guard, []))[1].append((each, claim))
    yield from found.values()


def _is_enforced_allow(policy: AuthorizationPolicy) -> bool:
    return policy.action is Action.ALLOW and not policy.dry_run


def _open_spot(policy: AuthorizationPolicy, found: list[Open], what: str) -> Spot:
    (first, claim), *others = found
    more = f" and {len(others)} more" if others else ""
    return Spot(
        message=f"`{shown(first.namespace)}/{shown(first.name)}`{more} {what}",
        location=policy.metadata.location,
        resource=resource_name(policy),
        path="spec.action",
        related=(Related(message="the workload", location=first.location),),
        claims=(claim,),
    )


@rule("MW0404")
def open_by_default(facts: Facts) -> Iterator[Spot]:
    """A workload that policies speak of, none of which is an enforced ALLOW or a CUSTOM."""

    def guards(policies: Sequence[AuthorizationPolicy]) -> AuthorizationPolicy | None:
        is_custom = any(each.action is Action.CUSTOM and not each.dry_run for each in policies)
        return policies[0] if policies and not is_custom else None

    for policy, found in _open_workloads(facts, guards):
        what = "has no enforced ALLOW policy, so what nothing denies is let in"
        yield _open_spot(policy, found, what)


@rule("MW0805")
def custom_alone(facts: Facts) -> Iterator[Spot]:
    """A workload whose CUSTOM policies are asked about a part of the requests, the rest is open."""

    def guards(policies: Sequence[AuthorizationPolicy]) -> AuthorizationPolicy | None:
        return next((each for each in policies if each.action is Action.CUSTOM), None)

    for policy, found in _open_workloads(facts, guards):
        what = "lets in what the provider is not asked about: no ALLOW policy applies"
        yield _open_spot(policy, found, what)


@rule("MW0702")
def token_may_be_left_out(facts: Facts) -> Iterator[Spot]:
    """A RequestAuthentication where no policy asks for the token, and requests without pass."""
    mesh = facts.mesh
    if mesh.mode is MeshMode.ZTUNNEL:
        return
    attached = Attached(facts.others, mesh)
    asking = [policy for policy in facts.others if not policy.dry_run and _asks_for_token(policy)]
    for resource in facts.request_authentications:
        if not resource.jwt_rules or resource.attachment.target_refs:
            continue
        known = [each.as_asked() for each in facts.workloads]
        near = [each for each in known if _applies(resource, each, mesh)]
        # Which workloads a narrower policy leaves out is not known where none is listed.
        if not near and any(may_meet(each, resource, mesh.root_namespace) for each in asking):
            continue
        home = Workload(
            namespace=resource.metadata.namespace, labels=dict(resource.attachment.selector or {})
        )
        # Not what nobody reads, as in ambient mode without `targetRefs`.
        meant = [home] if _applies(resource, home, mesh) else []
        for workload in near or meant:
            claim = _tokenless(facts, attached.to(workload), workload, mesh)
            if claim is not None:
                yield Spot(
                    message="a request without a token is let in: a RequestAuthentication refuses"
                    " wrong tokens, and asks for none",
                    location=resource.metadata.location,
                    resource=resource_name(resource),
                    path="spec.jwtRules",
                    claims=(claim,),
                )
                break


def _applies(resource: RequestAuthentication, workload: Workload, mesh: Mesh) -> bool:
    return is_attached(resource.metadata, resource.attachment, workload, mesh)


def _asks_for_token(policy: AuthorizationPolicy) -> bool:
    return any(
        (attribute := attribute_for(clause.key)) is not None and attribute.is_token
        for path, each in rules_of(policy)
        for _, clause in clauses_of(each, path)
    )


def _tokenless(
    facts: Facts, policies: list[AuthorizationPolicy], workload: Workload, mesh: Mesh
) -> Claim | None:
    """Return a request without a token that is let in, where no policy asks for one."""
    if any(_asks_for_token(policy) for policy in policies if not policy.dry_run):
        return None
    tried = [*probes_of(workload, mesh)]
    for policy in policies:
        if policy.action is Action.ALLOW:
            for each in policy.rules:
                tried += witnesses(policy, each, mesh, workload, most=1)
    for request in tried[:_TRIED_MOST]:
        if facts.ask(request).effect is Effect.ALLOW:
            return facts.claim(request, Effect.ALLOW)
    return None
