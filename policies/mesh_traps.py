"""Warnings that only the mesh settings can tell: what a resource does not do in this mesh."""

from __future__ import annotations

from collections.abc import Iterable

from policies.diagnostic import shown
from policies.fields import Findings
from policies.mesh import Mesh
from policies.model import Action, AuthorizationPolicy, PeerAuthentication, Resource


def warn_of_mesh(resources: Iterable[Resource], mesh: Mesh, findings: Findings) -> None:
    """Add a warning for each resource that this mesh does not heed as its author thinks."""
    for resource in resources:
        if isinstance(resource, PeerAuthentication):
            _warn_of_root_selector(resource, mesh, findings)
        elif isinstance(resource, AuthorizationPolicy) and resource.action is Action.CUSTOM:
            _warn_of_provider(resource, mesh, findings)


def _warn_of_root_selector(resource: PeerAuthentication, mesh: Mesh, findings: Findings) -> None:
    # "Selector policies in the root namespace are ignored", for the workloads there as well.
    if resource.attachment.selector and resource.metadata.namespace == mesh.root_namespace:
        _warn(
            resource, findings, "root-selector", "spec.selector",
            f"`spec.selector` makes it ignored: `{shown(mesh.root_namespace)}` is the root"
            " namespace", "leave the selector out, or move it to the namespace of its workload",
        )  # fmt: skip


def _warn_of_provider(resource: AuthorizationPolicy, mesh: Mesh, findings: Findings) -> None:
    """Warn of a provider the mesh has not; without any provider nothing is known of them."""
    known = [provider.name for provider in mesh.extension_providers]
    if known and resource.provider not in known:
        # "Unknown provider: every CUSTOM rule naming it becomes an enforced DENY."
        _warn(
            resource, findings, "unknown-provider", "spec.provider.name",
            f"`spec.provider.name` is `{shown(resource.provider)}`, which the mesh has not:"
            " whatever its rules match is denied", f"known: {', '.join(known)}",
        )  # fmt: skip


def _warn(
    resource: Resource, findings: Findings, code: str, path: str, message: str, help_: str
) -> None:
    meta = resource.metadata
    findings.resource = f"{type(resource).__name__}/{meta.namespace}/{meta.name}"
    findings.warning(code, message, meta.location, help_, path=path)
    findings.resource = ""
