"""Which workload is asked about: told by Envoy's message, or set by the operator.

Never by anything the client can write: request headers are not looked at.

`context_extensions` of the route may hold, all of them optional:

- `meshwarden.namespace`, `meshwarden.service_account`: those of the workload (of the
  proxy itself, for a gateway or a waypoint);
- `meshwarden.service`: for a waypoint, the Kubernetes Service that the route serves, as
  `<namespace>/<name>`; empty says that the route serves no service but workloads;
- `meshwarden.service_entry`: the same for an Istio ServiceEntry.

A waypoint whose policies hang on services denies what names neither of the last two.

The labels are those that Envoy sends, with static ones laid over them. Where there are neither, and
policies that select by labels could apply, the request is denied: it is not known which do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from identity.mapping import MappingSet
from identity.peer import Peer
from policies.request import Request, Service, Workload

NAMESPACE_EXTENSION = "meshwarden.namespace"
SERVICE_ACCOUNT_EXTENSION = "meshwarden.service_account"
SERVICE_EXTENSION = "meshwarden.service"
SERVICE_ENTRY_EXTENSION = "meshwarden.service_entry"
_NO_MAPPINGS = MappingSet()
_NO_SERVICE = Service(kind="", namespace="", name="")


def resolve_workload(
    request: Request, static: Workload | None, mappings: MappingSet = _NO_MAPPINGS
) -> Workload | None:
    """Return the workload, or None when nothing names its namespace.

    The most specific word wins: `context_extensions` of the route, then the
    static setting, then the certificate of the listener (`destination.principal`),
    read as that of a peer is.
    """
    local = _local_identity(request.destination_principal, mappings)
    extensions: Mapping[str, str] = request.context_extensions
    namespace = (
        extensions.get(NAMESPACE_EXTENSION)
        or (static.namespace if static else "")
        or (local[0] if local else "")
    )
    if not namespace:
        return None
    account = (
        extensions.get(SERVICE_ACCOUNT_EXTENSION)
        or (static.service_account if static else "")
        or (local[1] if local else "")
    )
    labels = {**request.destination_labels, **(static.labels if static else {})}
    return Workload(
        namespace=namespace,
        service_account=account,
        labels=labels,
        service=_service(extensions) or (static.service if static else None),
        has_told_labels=bool(labels) or (static is not None and static.has_told_labels),
    )


def _service(extensions: Mapping[str, str]) -> Service | None:
    """Return the service a waypoint's route serves, or None when nothing can be told."""
    entry = extensions.get(SERVICE_ENTRY_EXTENSION)
    text = extensions.get(SERVICE_EXTENSION) if entry is None else entry
    if text == "":
        return _NO_SERVICE
    namespace, _, name = (text or "").partition("/")
    if not namespace or not name:
        return None
    kind: Literal["Service", "ServiceEntry"] = "Service" if entry is None else "ServiceEntry"
    return Service(kind=kind, namespace=namespace, name=name)


def _local_identity(principal: str, mappings: MappingSet) -> tuple[str, str] | None:
    """Return namespace and service account of the listener's own certificate."""
    local = Peer.from_principal(principal)
    if local is None:
        return None
    reading = mappings.read(local.names)
    return local.workload if reading is None else replace(local, reading=reading).workload
