"""Whether a workload's port must be reached over mTLS: PeerAuthentication resolved.

Spec: Istio PeerAuthentication. The mode resolves from workload over namespace over
mesh over PERMISSIVE; at each level the oldest resource counts and the others do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from policies.decision import RuleRef
from policies.mesh import Mesh, MeshMode
from policies.model import PeerAuthentication, PeerMode
from policies.request import Request, Workload
from policies.ztunnel_match import l4_workloads


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRequirement:
    """The resolved mTLS mode of a workload.

    `ref` is the PeerAuthentication that set the mode, `port_ref` the one that set
    the modes of ports. `needs_identity` asks for an identity of Kubernetes' shape,
    as ztunnel does, where a sidecar asks for a client certificate.
    """

    mode: PeerMode = PeerMode.PERMISSIVE
    port_modes: Mapping[int, PeerMode] = field(default_factory=dict)
    ref: RuleRef | None = None
    port_ref: RuleRef | None = None
    needs_identity: bool = False

    def is_strict(self, port: int) -> bool:
        """Whether a request to this workload port must come over mTLS."""
        mode = self.port_modes.get(port, PeerMode.UNSET)
        return (self.mode if mode is PeerMode.UNSET else mode) is PeerMode.STRICT

    def ref_for(self, port: int) -> RuleRef | None:
        """Return the resource that decides about a port."""
        is_own = self.port_modes.get(port, PeerMode.UNSET) is not PeerMode.UNSET
        return self.port_ref if is_own else self.ref

    def admits(self, request: Request) -> bool:
        """Whether the request comes as it must."""
        if not self.is_strict(request.destination_port):
            return True
        # WHY over_mtls: a trusted proxy's word about its client is no mTLS of this connection.
        if request.peer is None or not request.peer.over_mtls:
            return False
        return not self.needs_identity or bool(l4_workloads(request, wide=False))


def resolve_peer_requirement(
    policies: Iterable[PeerAuthentication], workload: Workload, mesh: Mesh
) -> PeerRequirement:
    """Return what the policies together ask of a workload's callers."""
    # "Gateways use the TLS settings of their own servers"; waypoints have no PeerAuthentication.
    if mesh.mode in (MeshMode.GATEWAY, MeshMode.WAYPOINT):
        return PeerRequirement()
    own, *wider = (_oldest(level) for level in _levels(policies, workload, mesh))
    # "UNSET: inherit from parent, if has one. Otherwise treated as PERMISSIVE."
    setting = next(
        (found for found in (own, *wider) if found and found.mode is not PeerMode.UNSET), None
    )
    return PeerRequirement(
        mode=setting.mode if setting else PeerMode.PERMISSIVE,
        port_modes=own.port_modes if own else {},
        ref=setting.metadata.ref() if setting else None,
        port_ref=own.metadata.ref() if own else None,
        needs_identity=mesh.mode is MeshMode.ZTUNNEL,
    )


def _levels(
    policies: Iterable[PeerAuthentication], workload: Workload, mesh: Mesh
) -> tuple[list[PeerAuthentication], list[PeerAuthentication], list[PeerAuthentication]]:
    """Return the candidates at workload, namespace and mesh level."""
    own: list[PeerAuthentication] = []
    namespace: list[PeerAuthentication] = []
    everywhere: list[PeerAuthentication] = []
    for found in policies:
        selector, home = found.attachment.selector, found.metadata.namespace
        if selector:
            # "Selector policies in the root namespace are ignored."
            is_near = home == workload.namespace != mesh.root_namespace
            if is_near and found.attachment.selects(workload.labels):
                own.append(found)
        elif home == mesh.root_namespace:
            # For ztunnel only a policy without any selector is of the whole mesh.
            is_wide = selector is None or mesh.mode is not MeshMode.ZTUNNEL
            if is_wide or home == workload.namespace:
                everywhere.append(found)
        elif home == workload.namespace:
            namespace.append(found)
    return own, namespace, everywhere


def _oldest(level: list[PeerAuthentication]) -> PeerAuthentication | None:
    """Return the one that counts: the oldest, then by name."""
    return min(
        level,
        key=lambda found: (
            found.metadata.created_at,
            found.metadata.name,
            found.metadata.namespace,
        ),
        default=None,
    )
