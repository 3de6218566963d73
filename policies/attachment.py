"""To which workloads a policy is attached.

Spec: Istio AuthorizationPolicy and RequestAuthentication, `selector` and
`targetRefs`: what they mean differs between a sidecar, a Gateway API gateway, a
waypoint and ztunnel.
"""

from __future__ import annotations

from collections.abc import Mapping

from policies.mesh import Mesh, MeshMode
from policies.model import Attachment, Metadata
from policies.request import Service, Workload

GATEWAY_NAME_LABEL = "gateway.networking.k8s.io/gateway-name"
_GATEWAY_GROUP = "gateway.networking.k8s.io"
_GATEWAY = (_GATEWAY_GROUP, "Gateway")
_WAYPOINT_CLASS = "istio-waypoint"
# A target by group and kind, as the service kind it names.
_SERVICE_KINDS = {
    ("", "Service"): "Service",
    ("core", "Service"): "Service",
    ("networking.istio.io", "ServiceEntry"): "ServiceEntry",
}


def is_attached(metadata: Metadata, attachment: Attachment, workload: Workload, mesh: Mesh) -> bool:
    """Whether a policy applies to a workload (for a waypoint: to the service asked for, too)."""
    if metadata.namespace not in _candidate_namespaces(workload, mesh):
        return False
    match mesh.mode:
        case MeshMode.WAYPOINT:
            # A waypoint takes policies that name it or its services, and no others.
            return _is_targeted(metadata, attachment, workload, mesh)
        case MeshMode.ZTUNNEL:
            return _is_attached_in_ztunnel(attachment, workload)
    if GATEWAY_NAME_LABEL in workload.labels and attachment.target_refs:
        return _is_targeted(metadata, attachment, workload, mesh)
    # A policy with targetRefs never applies to a sidecar.
    return not attachment.target_refs and attachment.selects(workload.labels)


def names_service(attachment: Attachment) -> bool:
    """Whether a policy hangs on a service, so that a waypoint must know which one is asked for."""
    return any(_kind_of(ref) in _SERVICE_KINDS for ref in attachment.target_refs)


def hangs_on_labels(attachment: Attachment, mesh: Mesh) -> bool:
    """Whether the labels of a workload say if a policy applies to it, so that they must be told."""
    names_gateway = any(_kind_of(ref) == _GATEWAY for ref in attachment.target_refs)
    match mesh.mode:
        case MeshMode.WAYPOINT:
            return names_gateway
        case MeshMode.GATEWAY:
            return names_gateway or bool(attachment.selector)
    return bool(attachment.selector) and not attachment.target_refs


def _candidate_namespaces(workload: Workload, mesh: Mesh) -> tuple[str, ...]:
    # "If the root namespace is set to the config's namespace, the policy applies to all
    # namespaces in a mesh."
    service = workload.service
    own = (mesh.root_namespace, workload.namespace)
    return (*own, service.namespace) if service and mesh.mode is MeshMode.WAYPOINT else own


def _is_attached_in_ztunnel(attachment: Attachment, workload: Workload) -> bool:
    # Policies with targetRefs are not sent to ztunnel; `selector: {}` attaches by labels, of
    # which it has none, and so to nothing.
    if attachment.target_refs or attachment.selector == {}:
        return False
    return attachment.selects(workload.labels)


def _is_targeted(
    metadata: Metadata, attachment: Attachment, workload: Workload, mesh: Mesh
) -> bool:
    """Whether any of the references names this proxy or the service asked for."""
    return any(
        _names_gateway(ref, metadata, workload)
        or (
            mesh.mode is MeshMode.WAYPOINT
            and (_names_class(ref, metadata, mesh) or _names_this(ref, metadata, workload.service))
        )
        for ref in attachment.target_refs
    )


def _kind_of(ref: Mapping[str, str]) -> tuple[str, str]:
    return ref.get("group", ""), ref.get("kind", "")


def _names_gateway(ref: Mapping[str, str], metadata: Metadata, workload: Workload) -> bool:
    return (
        _kind_of(ref) == _GATEWAY
        and metadata.namespace == workload.namespace
        and ref.get("namespace", "") in ("", workload.namespace)
        and ref.get("name") == workload.labels.get(GATEWAY_NAME_LABEL)
    )


def _names_class(ref: Mapping[str, str], metadata: Metadata, mesh: Mesh) -> bool:
    # "The target must be in the root namespace for GatewayClass."
    return (
        _kind_of(ref) == (_GATEWAY_GROUP, "GatewayClass")
        and metadata.namespace == mesh.root_namespace
        and ref.get("name") == _WAYPOINT_CLASS
    )


def _names_this(ref: Mapping[str, str], metadata: Metadata, service: Service | None) -> bool:
    return service is not None and (service.kind, service.namespace, service.name) == (
        _SERVICE_KINDS.get(_kind_of(ref)),
        metadata.namespace,
        ref.get("name"),
    )
