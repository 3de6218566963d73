"""Which workload is asked about: told by Envoy's message, or set by the operator.

Never by anything the client can write: request headers are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping

from identity.errors import SpiffeIdError
from identity.peer import KubernetesIdentity
from identity.spiffe_id import SpiffeId
from policies.request import Request, Workload

NAMESPACE_EXTENSION = "meshwarden.namespace"
SERVICE_ACCOUNT_EXTENSION = "meshwarden.service_account"


def resolve_workload(request: Request, static: Workload | None) -> Workload | None:
    """Return the workload, or None when nothing names its namespace.

    The most specific word wins: `context_extensions` of the route, then the
    static setting, then the certificate of the listener (`destination.principal`).
    """
    local = _local_identity(request.destination_principal)
    extensions: Mapping[str, str] = request.context_extensions
    namespace = (
        extensions.get(NAMESPACE_EXTENSION)
        or (static.namespace if static else "")
        or (local.namespace if local else "")
    )
    if not namespace:
        return None
    account = (
        extensions.get(SERVICE_ACCOUNT_EXTENSION)
        or (static.service_account if static else "")
        or (local.service_account if local else "")
    )
    labels = {**request.destination_labels, **(static.labels if static else {})}
    return Workload(namespace=namespace, service_account=account, labels=labels)


def _local_identity(principal: str) -> KubernetesIdentity | None:
    try:
        return KubernetesIdentity.of(SpiffeId.parse(principal)) if principal else None
    except SpiffeIdError:
        return None
