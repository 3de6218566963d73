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
    if request.peer is None:
        return None
    match request.peer.principal.split("/"):
        case [scheme, "", trust_domain, "ns", namespace, "sa", account] if scheme == _SCHEME:
            return L4Identity(trust_domain, namespace, account)
        case _:
            return None


def l4_principal(value: str) -> Callable[[Request], bool]:
    """Return the test of a principal: exact, prefix, suffix or presence."""
    return _on_identity(_matcher(value), lambda identity: identity.principal)


def l4_namespace(value: str) -> Callable[[Request], bool]:
    """Return the test of a namespace, compared whole; only an outer `*` is a wildcard."""
    return _on_identity(_matcher(value), lambda identity: identity.namespace)


def l4_service_account(value: str, policy_namespace: str) -> Callable[[Request], bool]:
    """Return the test of `<account>` (of the policy's namespace) or `<namespace>/<account>`."""
    namespace, slash, account = value.partition("/")
    wanted = (namespace, account) if slash else (policy_namespace, value)

    def matches(request: Request) -> bool:
        identity = l4_identity(request)
        return identity is not None and wanted == (identity.namespace, identity.service_account)

    return matches


def _matcher(value: str) -> TextTest:
    # "`*` is presence": not empty.
    return bool if value == "*" else edge_matcher(value)


def _on_identity(test: TextTest, part: Callable[[L4Identity], str]) -> Callable[[Request], bool]:
    def matches(request: Request) -> bool:
        identity = l4_identity(request)
        return identity is not None and test(part(identity))

    return matches
