"""How ztunnel, the node proxy of ambient, compares identities.

It reads the peer's identity into its parts and compares those: no trust domain
aliases, no regular expressions, and an identity of another shape is none at all.

Spec: Istio ambient, L4 authorization by ztunnel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from policies.request import Request
from policies.string_match import TextTest, edge_matcher

_SCHEME = "spiffe:"


class L4Identity(NamedTuple):
    """The parts of `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`."""

    trust_domain: str
    namespace: str
    service_account: str

    @property
    def principal(self) -> str:
        """The identity as policies write it, without `spiffe://`."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"


def l4_identity(request: Request) -> L4Identity | None:
    """Return the identity ztunnel sees: five parts exactly, or none."""
    return None if request.peer is None else _parts(request.peer.principal)


def l4_workloads(request: Request, *, wide: bool) -> tuple[L4Identity, ...]:
    """Return the identities that tell the peer's workload, which mappings may make.

    `wide` is for conditions that keep requests out: in doubt those match.
    """
    if request.peer is None:
        return ()
    # ztunnel knows one name of a peer.
    is_mapped = request.peer.reading is not None
    names = request.peer.workload_names(wide=wide) if is_mapped else (request.peer.principal,)
    return tuple(found for name in names if (found := _parts(name)) is not None)


def _parts(name: str) -> L4Identity | None:
    match name.split("/"):
        case [scheme, "", trust_domain, "ns", namespace, "sa", account] if scheme == _SCHEME:
            return L4Identity(trust_domain, namespace, account)
        case _:
            return None


def l4_principal(value: str) -> Callable[[Request], bool]:
    """Return the test of a principal: exact, prefix, suffix or presence."""
    test = _matcher(value)

    def matches(request: Request) -> bool:
        identity = l4_identity(request)
        return identity is not None and test(identity.principal)

    return matches


def l4_namespace(value: str, *, wide: bool = False) -> Callable[[Request], bool]:
    """Return the test of a namespace, compared whole; only an outer `*` is a wildcard."""
    test = _matcher(value)
    return lambda request: any(test(found.namespace) for found in l4_workloads(request, wide=wide))


def l4_service_account(
    value: str, policy_namespace: str, *, wide: bool = False
) -> Callable[[Request], bool]:
    """Return the test of `<account>` (of the policy's namespace) or `<namespace>/<account>`."""
    namespace, slash, account = value.partition("/")
    wanted = (namespace, account) if slash else (policy_namespace, value)
    return lambda request: any(
        wanted == (found.namespace, found.service_account)
        for found in l4_workloads(request, wide=wide)
    )


def _matcher(value: str) -> TextTest:
    # "`*` is presence": not empty.
    return bool if value == "*" else edge_matcher(value)
