"""What a request had where a condition looked, as text for people.

Nothing here decides: whether a condition holds is asked of the compiled policy. A header
that carries tokens or cookies is said to be there, never what it holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from audit.redact import SECRET_HEADERS
from policies.attributes import claim_path
from policies.diagnostic import shown
from policies.mesh import Mesh
from policies.request import Request
from policies.request_attributes import claim_values, remote_ip, unmapped

NOTHING: Final = "nothing"
"""Stands where the request had none of what was looked for."""
_NO_PEER = "no peer (no client certificate)"
_NO_TOKEN = "no token"  # noqa: S105 - a phrase
_HIDDEN = "a value that is not shown"


def what_it_had(key: str, request: Request, mesh: Mesh, carriers: Collection[str] = ()) -> str:
    """Return what the request had of an attribute, by the key of a clause.

    `carriers` are the names that tokens were looked for under.
    """
    if key in _PLAIN:
        return _PLAIN[key](request, mesh)
    if key.startswith("request.headers["):
        return _header(key[len("request.headers[") : -1].lower(), request, carriers)
    if key.startswith("request.auth.claims"):
        path = claim_path(key.removeprefix("request.auth.claims"))
        return _of_token(request, path or ())
    if key.startswith("experimental.envoy.filters."):
        name, _, field = key.removesuffix("]").partition("[")
        section = request.filter_metadata.get(name.removeprefix("experimental."), {})
        found = section.get(field) if hasattr(section, "get") else None
        return NOTHING if found is None else shown(str(found))
    return NOTHING


def _header(name: str, request: Request, carriers: Collection[str]) -> str:
    values = request.headers.get(name)
    if values is None:
        return NOTHING
    return _HIDDEN if name in SECRET_HEADERS or name in carriers else _listed(values)


def _of_token(request: Request, path: tuple[str, ...]) -> str:
    if request.claims is None:
        return _NO_TOKEN
    return _listed(claim_values(request.claims, path))


def _listed(values: Iterable[str]) -> str:
    return ", ".join(shown(value) or "an empty text" for value in values) or NOTHING


def _principal(request: Request, mesh: Mesh) -> str:
    return _NO_PEER if request.peer is None else _listed(request.peer.names)


def _workload(part: int) -> Callable[[Request, Mesh], str]:
    def text(request: Request, mesh: Mesh) -> str:
        if request.peer is None:
            return _NO_PEER
        workload = request.peer.workload
        if workload is None:
            return f"{shown(request.peer.principal)}, which names no workload"
        return shown("/".join(workload) if part else workload[0])

    return text


def _trust_domain(request: Request, mesh: Mesh) -> str:
    if request.peer is None:
        return _NO_PEER
    found = request.peer.spiffe_id
    return shown(request.peer.principal) if found is None else found.trust_domain.name


def _request_principal(request: Request, mesh: Mesh) -> str:
    if request.claims is None:
        return _NO_TOKEN
    return shown(f"{request.claims.issuer or ''}/{request.claims.subject or ''}")


_PLAIN: Final[dict[str, Callable[[Request, Mesh], str]]] = {
    "source.principal": _principal,
    "source.namespace": _workload(0),
    "source.serviceAccount": _workload(1),
    "source.trustDomain": _trust_domain,
    "source.ip": lambda request, mesh: unmapped(request.source_ip) or NOTHING,
    "remote.ip": lambda request, mesh: remote_ip(request, mesh) or "an address nobody can tell",
    "destination.ip": lambda request, mesh: unmapped(request.destination_ip) or NOTHING,
    "destination.port": lambda request, mesh: str(request.destination_port),
    "connection.sni": lambda request, mesh: (
        "a server name nobody told" if request.sni_unknown else shown(request.sni) or NOTHING
    ),
    "request.auth.principal": _request_principal,
    "request.auth.audiences": lambda request, mesh: _of_token(request, ("aud",)),
    "request.auth.presenter": lambda request, mesh: _of_token(request, ("azp",)),
    "operation.hosts": lambda request, mesh: shown(request.host) or NOTHING,
    "operation.methods": lambda request, mesh: shown(request.method) or NOTHING,
    "operation.paths": lambda request, mesh: shown(request.path_only) or NOTHING,
}
