"""Rules about dry-run policies: trials that cannot show what enforcing would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from policies.decision import Effect, Layer
from policies.lint.cover_index import CoverIndex, Scopes
from policies.lint.facts import Attached, Facts, resource_name
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.lint.witness import home_of, probes_of, witnesses
from policies.mesh import MeshMode
from policies.model import Action, AuthorizationPolicy


@rule("MW0808")
def misleading_trial(facts: Facts) -> Iterator[Spot]:
    """A dry-run that an enforced DENY hides, or an ALLOW whose enforcing denies all the rest."""
    mesh = facts.mesh
    if mesh.mode is MeshMode.ZTUNNEL:
        return
    scopes = Scopes(facts.others, mesh)
    attached = Attached(facts.others, mesh)
    for policy in facts.others:
        if not policy.dry_run or policy.attachment.target_refs:
            continue
        hidden = _hidden(facts, policy, scopes)
        if hidden is not None:
            yield hidden
        elif policy.action is Action.ALLOW:
            yield from _closing(facts, policy, attached)


def _spot(policy: AuthorizationPolicy, message: str) -> Spot:
    return Spot(
        message=message,
        location=policy.metadata.location,
        resource=resource_name(policy),
        path="metadata.annotations",
    )


def _hidden(facts: Facts, policy: AuthorizationPolicy, scopes: Scopes) -> Spot | None:
    """Return the finding where an enforced DENY refuses all that the trial would match."""
    mesh, home = facts.mesh, home_of(policy)
    index = CoverIndex(scopes.around(policy, Action.DENY), mesh)
    claims = []
    by = None
    for each in policy.rules:
        by = index.covering(each, policy)
        if by is None:
            return None
        enforced = (replace(policy, dry_run=False), by[0])
        claims += [
            facts.claim(request, Effect.DENY, enforced, Layer.DENY)
            for request in witnesses(policy, each, mesh, home)
        ]
    if by is None or not claims:
        return None
    spot = _spot(policy, "the trial shows nothing: a DENY that is enforced refuses all it matches")
    related = Related(message="the DENY", location=by[1].location)
    return replace(spot, claims=tuple(claims), related=(related,))


def _closing(facts: Facts, policy: AuthorizationPolicy, attached: Attached) -> Iterator[Spot]:
    """Yield the finding where the trial would become the only ALLOW."""
    mesh, home = facts.mesh, home_of(policy)
    near = attached.to(home)
    if any(each.action is Action.ALLOW and not each.dry_run for each in near):
        return
    now = tuple(near)
    then = tuple(replace(each, dry_run=False) if each is policy else each for each in near)
    for request in probes_of(home, mesh):
        if (
            facts.ask(request, now).layer is Layer.DEFAULT
            and facts.ask(request, then).effect is Effect.DENY
        ):
            message = (
                "once enforced, the policy denies all that it does not match: no other ALLOW"
                " applies, and the trial does not show that"
            )
            claims = (
                facts.claim(request, Effect.DENY, then, Layer.ALLOW),
                facts.claim(request, Effect.ALLOW, now, Layer.DEFAULT),
            )
            yield replace(_spot(policy, message), claims=claims)
            return
