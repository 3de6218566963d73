"""Why a policy was considered for a workload, or was not, in one clause.

Whether it was is known from the walk; these are the words for it.
"""

from __future__ import annotations

from policies.mesh import Mesh, MeshMode
from policies.model import Action, AuthorizationPolicy
from policies.request import Workload


def why_considered(policy: AuthorizationPolicy, mesh: Mesh) -> str:
    """Return why a policy applies to the workload that was asked about."""
    home = policy.metadata.namespace
    if policy.attachment.target_refs:
        return f"it targets {_targets(policy)}"
    where = (
        f"the root namespace `{home}`, so for the whole mesh"
        if home == mesh.root_namespace
        else f"the workload's namespace `{home}`"
    )
    selector = policy.attachment.selector
    if not selector:
        return f"in {where}, for every workload there"
    return f"in {where}, and its selector fits: {_pairs(selector)}"


def why_passed_over(policy: AuthorizationPolicy, workload: Workload, mesh: Mesh) -> str:
    """Return why a policy does not apply to a workload; it is known that it does not."""
    home = policy.metadata.namespace
    homes = {mesh.root_namespace, workload.namespace}
    if mesh.mode is MeshMode.WAYPOINT and workload.service is not None:
        homes.add(workload.service.namespace)
    if home not in homes:
        return f"it is in namespace `{home}`, the workload in `{workload.namespace}`"
    if policy.attachment.target_refs:
        if mesh.mode is MeshMode.SIDECAR:
            return f"it targets {_targets(policy)}; targetRefs never name a sidecar"
        return f"it targets {_targets(policy)}, not what was asked for"
    if mesh.mode is MeshMode.WAYPOINT:
        return "it has no targetRefs, and a waypoint takes no others"
    for key, wanted in (policy.attachment.selector or {}).items():
        found = workload.labels.get(key)
        if found != wanted:
            has = f"has `{key}: {found}`" if found is not None else f"has no label `{key}`"
            return f"its selector wants `{key}: {wanted}`, the workload {has}"
    if mesh.mode is MeshMode.ZTUNNEL and policy.action in (Action.AUDIT, Action.CUSTOM):
        return f"ztunnel enforces no {policy.action} policy"
    if policy.action is Action.CUSTOM:
        return f"its provider `{policy.provider}` is for HTTP only, and this is a connection"
    return "it does not apply in this mode of the mesh"


def _pairs(selector: object) -> str:
    items = selector.items() if hasattr(selector, "items") else ()
    return ", ".join(f"{key}={value}" for key, value in items)


def _targets(policy: AuthorizationPolicy) -> str:
    return ", ".join(
        f"{ref.get('kind', '?')} `{ref.get('name', '?')}`" for ref in policy.attachment.target_refs
    )
