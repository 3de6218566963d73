"""The table of attributes: on which side of an Envoy rule a key stands, and its matcher there.

Envoy splits a rule in two: permissions say what is asked for, principals who
asks. Both are trees of the same shape under different names.

Spec: envoy.config.rbac.v3.Permission and Principal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from policies.mesh import Mesh, MeshMode
from policies.rbac.address import cidr_range, port_number
from policies.rbac.errors import UntranslatableError
from policies.rbac.metadata import (
    claim_match,
    claim_names,
    filter_match,
    request_principal_match,
)
from policies.rbac.text import (
    Json,
    header_match,
    host_match,
    namespace_match,
    path_template,
    principal_match,
    service_account_match,
    text_match,
    trust_domain_match,
)

_PEER_PRINCIPAL = "io.istio.peer_principal"


class Side(Enum):
    """A half of an Envoy rule, with the names of its combinators."""

    PERMISSION = ("andRules", "orRules", "rules", "notRule")
    PRINCIPAL = ("andIds", "orIds", "ids", "notId")

    def all_of(self, terms: Sequence[Json]) -> Json:
        """Return the AND of terms."""
        return {self.value[0]: {self.value[2]: list(terms)}}

    def any_of(self, terms: Sequence[Json]) -> Json:
        """Return the OR of terms."""
        return {self.value[1]: {self.value[2]: list(terms)}}

    def none_of(self, term: Json) -> Json:
        """Return the negation of a term."""
        return {self.value[3]: term}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a matcher depends on besides its value: the mesh and the policy's namespace."""

    mesh: Mesh
    namespace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """How one attribute is written for Envoy.

    Exactly one of `each` (a matcher for every value, which the caller OR-s) and
    `whole` (one matcher for the list, all or nothing) is set; both raise
    UntranslatableError. `is_http` marks what a TCP filter cannot see.
    """

    side: Side
    each: Callable[[str, Scope], Json] | None = None
    whole: Callable[[Sequence[str]], Json] | None = None
    is_http: bool = False


def translation_for(key: str) -> Translation | None:
    """Return the row of a key, or None when Istio knows no such key."""
    if key in _TABLE:
        return _TABLE[key]
    # "Prefix test": what follows is looked at when a matcher is built.
    if key.startswith("request.headers"):
        return _header(key)
    if key.startswith("request.auth.claims"):
        return _claims(lambda: claim_names(key.removeprefix("request.auth.claims")))
    if key.startswith("experimental.envoy.filters."):
        return Translation(
            side=Side.PERMISSION, whole=lambda values: {"metadata": filter_match(key, values)}
        )
    return None


def _header(key: str) -> Translation:
    brackets = key.removeprefix("request.headers")

    def each(value: str, scope: Scope) -> Json:
        if not (brackets.startswith("[") and brackets.endswith("]")):
            raise UntranslatableError(f"`{key}` names no header")
        name = brackets.removesuffix("]").removeprefix("[")
        return {"header": header_match(name, value)}

    return Translation(side=Side.PRINCIPAL, each=each, is_http=True)


def _claims(names: Callable[[], Sequence[str]]) -> Translation:
    def whole(values: Sequence[str]) -> Json:
        return {"metadata": claim_match(names(), values)}

    return Translation(side=Side.PRINCIPAL, whole=whole, is_http=True)


def _request_principals(values: Sequence[str]) -> Json:
    pairs = [request_principal_match(value) for value in values]
    terms = [Side.PRINCIPAL.all_of([{"metadata": each} for each in pair]) for pair in pairs]
    return terms[0] if len(terms) == 1 else Side.PRINCIPAL.any_of(terms)


def _peer(match: Json, scope: Scope) -> Json:
    # "Waypoints use filter state instead of the TLS object": the peer's mTLS ended before.
    if scope.mesh.mode is MeshMode.WAYPOINT:
        return {"filterState": {"key": _PEER_PRINCIPAL, "stringMatch": match}}
    return {"authenticated": {"principalName": match}}


def _on_peer(match: Callable[[str], Json]) -> Translation:
    return Translation(side=Side.PRINCIPAL, each=lambda value, scope: _peer(match(value), scope))


def _service_account(value: str, scope: Scope) -> Json:
    return _peer(service_account_match(value, scope.namespace), scope)


def _operation(field: str, match: Callable[[str], Json]) -> Translation:
    return Translation(
        side=Side.PERMISSION, each=lambda value, scope: {field: match(value)}, is_http=True
    )


def _path(value: str, scope: Scope) -> Json:
    # "A value containing `{*}` or `{**}` uses templates instead."
    if "{*}" in value or "{**}" in value:
        return {"uriTemplate": path_template(value)}
    return {"urlPath": {"path": text_match(value)}}


def _address(side: Side, field: str) -> Translation:
    return Translation(side=side, each=lambda value, scope: {field: cidr_range(value)})


_TABLE: dict[str, Translation] = {
    "source.principal": _on_peer(principal_match),
    "source.namespace": _on_peer(namespace_match),
    "source.serviceAccount": Translation(side=Side.PRINCIPAL, each=_service_account),
    "source.trustDomain": _on_peer(trust_domain_match),
    "source.ip": _address(Side.PRINCIPAL, "directRemoteIp"),
    "remote.ip": _address(Side.PRINCIPAL, "remoteIp"),
    "request.auth.principal": Translation(
        side=Side.PRINCIPAL, whole=_request_principals, is_http=True
    ),
    "request.auth.audiences": _claims(lambda: ("aud",)),
    "request.auth.presenter": _claims(lambda: ("azp",)),
    "operation.hosts": _operation("header", host_match),
    "operation.methods": _operation("header", lambda value: header_match(":method", value)),
    "operation.paths": Translation(side=Side.PERMISSION, each=_path, is_http=True),
    "destination.ip": _address(Side.PERMISSION, "destinationIp"),
    "destination.port": Translation(
        side=Side.PERMISSION, each=lambda value, scope: {"destinationPort": port_number(value)}
    ),
    "connection.sni": Translation(
        side=Side.PERMISSION,
        each=lambda value, scope: {"requestedServerName": text_match(value)},
    ),
}
