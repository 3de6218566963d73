"""What a request must at least have for a rule to match: the keys of the index.

An anchor is a necessary condition that a dictionary can look up: "the path is
`/a`", "the path begins with `/api/`", "the peer is in namespace `shop`". If a rule
matches a request, the request has one of the rule's anchors, in each dimension in
which the rule has any. The converse need not hold: the rule itself is tried after.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from policies.mesh import Mesh, MeshMode
from policies.path_template import is_template
from policies.request import Request
from policies.request_attributes import remote_ip, unmapped
from policies.string_match import ascii_lower, head_of, principal_name
from policies.trust_domain import expand_principal

_NAMESPACE_MARK: Final = "/ns/"


class Kind(NamedTuple):
    """How an anchor is compared: `=` whole, `^` first `size` characters, `$` last, `4`/`6` bits."""

    operator: str
    size: int = 0


class Anchor(NamedTuple):
    """A kind of comparison and the value it must give."""

    kind: Kind
    value: Hashable


Anchors = tuple[Anchor, ...] | None
"""Anchors of which a request must have one, or None where there is no such necessity."""

# BUDGET: lengths of the values of a set; there are far fewer lengths than values.
_kind: Final = lru_cache(maxsize=1024)(Kind)
_WHOLE: Final = _kind("=")


def lookup_key(kind: Kind, subject: Any) -> Hashable:
    """Return what a subject (text, number, address) gives under a kind, or None for nothing.

    >>> lookup_key(Kind("^", 4), "/api/x"), lookup_key(Kind("$", 9), "a.css")
    ('/api', None)
    """
    operator, size = kind
    if operator == "=":
        return subject  # type: ignore[no-any-return]
    if operator == "^":
        return subject[:size] if len(subject) >= size else None
    if operator == "$":
        return subject[len(subject) - size :] if len(subject) >= size else None
    version, bits = subject
    return bits >> (_width(version) - size) if str(version) == operator else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One thing that rules can be told apart by.

    `of_values` returns the anchors of the values under one of `keys`; the texts, the
    mesh and the policy's namespace decide. `of_request` returns the request's subjects.
    """

    keys: frozenset[str]
    of_values: Callable[[tuple[str, ...], Mesh, str], Anchors]
    of_request: Callable[[Request, Mesh], Iterable[Any]]


def _edge(value: str) -> Anchor | None:
    """Return the anchor of Istio's exact, prefix and suffix forms; presence has none."""
    if value == "*":
        return None
    if value.startswith("*"):
        return Anchor(_kind("$", len(value) - 1), value[1:])
    if value.endswith("*"):
        return Anchor(_kind("^", len(value) - 1), head_of(value))
    return Anchor(_WHOLE, value)


def _all(found: Iterable[Anchor | None]) -> Anchors:
    """Return the anchors, or None when one value has none: that value may match anything."""
    anchors = tuple(found)
    return None if None in anchors else tuple(each for each in anchors if each is not None)


def _texts(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    return _all(_edge(value) for value in values)


def _hosts(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    return _all(_edge(ascii_lower(value)) for value in values)


def _principals(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    # ztunnel takes no aliases.
    domains = () if mesh.mode is MeshMode.ZTUNNEL else mesh.trust_domains
    expanded = [
        each
        for value in values
        for each in (expand_principal(value, domains) if domains else (value,))
    ]
    # A suffix is compared behind `spiffe://`, and what ends the rest ends the whole.
    return _all(_edge(each if each.startswith("*") else principal_name(each)) for each in expanded)


def _namespaces(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    return _all(None if "*" in value or "/" in value else Anchor(_WHOLE, value) for value in values)


def _service_accounts(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    return tuple(
        Anchor(_WHOLE, value.partition("/")[0] if "/" in value else namespace) for value in values
    )


def _paths(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    return _all(_path(value) for value in values)


def _path(value: str) -> Anchor | None:
    """Return the anchor of a path; of a template it is the text before its first operator."""
    if not is_template(value):
        return _edge(value)
    head = value.partition("{")[0]
    return Anchor(_kind("^", len(head)), head)


def _ports(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    return tuple(Anchor(_WHOLE, int(value)) for value in values)


def _networks(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    found = []
    for value in values:
        network = ipaddress.ip_network(value, strict=False)
        bits = int(network.network_address) >> (_width(network.version) - network.prefixlen)
        found.append(Anchor(_kind(str(network.version), network.prefixlen), bits))
    return tuple(found)


def _remote_networks(values: tuple[str, ...], mesh: Mesh, namespace: str) -> Anchors:
    # WHY: an address that cannot be told matches where it must, so nothing is necessary.
    return None if mesh.trusted_proxy_hops is None else _networks(values, mesh, namespace)


def _peer(request: Request, mesh: Mesh) -> Iterable[str]:
    return () if request.peer is None else request.peer.names


def _peer_namespaces(request: Request, mesh: Mesh) -> Iterable[str]:
    """Return every text between a `/ns/` and the next slash; overlapping ones count.

    WHY wide: of the two readings of a peer's names it holds the other.
    """
    if request.peer is None:
        return ()
    names = request.peer.workload_names(wide=True)
    return [found for name in names for found in _namespaces_in(name)]


def _namespaces_in(text: str) -> Iterable[str]:
    start = text.find(_NAMESPACE_MARK)
    while start >= 0:
        begin = start + len(_NAMESPACE_MARK)
        end = text.find("/", begin)
        if end >= 0:
            yield text[begin:end]
        start = text.find(_NAMESPACE_MARK, start + 1)


def _address(text: str | None) -> Iterable[tuple[int, int]]:
    """Return family and number of an address, nothing for no address."""
    try:
        found = ipaddress.ip_address(text or "")
    except ValueError:
        return ()
    return ((found.version, int(found)),)


def _width(version: int) -> int:
    return 32 if version == 4 else 128


def _text_dimension(key: str, of_request: Callable[[Request], str]) -> Dimension:
    return Dimension(
        keys=frozenset({key}),
        of_values=_texts,
        of_request=lambda request, mesh: (of_request(request),),
    )


DIMENSIONS: Final[tuple[Dimension, ...]] = (
    Dimension(keys=frozenset({"source.principal"}), of_values=_principals, of_request=_peer),
    Dimension(
        keys=frozenset({"operation.paths"}),
        of_values=_paths,
        of_request=lambda request, mesh: (request.path_only,),
    ),
    Dimension(
        keys=frozenset({"operation.hosts"}),
        of_values=_hosts,
        of_request=lambda request, mesh: (ascii_lower(request.host),),
    ),
    Dimension(
        keys=frozenset({"source.namespace"}), of_values=_namespaces, of_request=_peer_namespaces
    ),
    Dimension(
        keys=frozenset({"source.serviceAccount"}),
        of_values=_service_accounts,
        of_request=_peer_namespaces,
    ),
    Dimension(
        keys=frozenset({"destination.port"}),
        of_values=_ports,
        of_request=lambda request, mesh: (request.destination_port,),
    ),
    Dimension(
        keys=frozenset({"source.ip"}),
        of_values=_networks,
        of_request=lambda request, mesh: _address(unmapped(request.source_ip)),
    ),
    Dimension(
        keys=frozenset({"remote.ip"}),
        of_values=_remote_networks,
        of_request=lambda request, mesh: _address(remote_ip(request, mesh)),
    ),
    Dimension(
        keys=frozenset({"destination.ip"}),
        of_values=_networks,
        of_request=lambda request, mesh: _address(unmapped(request.destination_ip)),
    ),
    _text_dimension("operation.methods", lambda request: request.method),
)
