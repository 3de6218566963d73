"""Conditions on a mapped peer, in a proxy's reading and in ztunnel's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from identity.mapping import MappingSet, RuleTexts, make_mapping
from identity.peer import Peer
from identity.spiffe_id import TrustDomain
from policies.mesh import Mesh, MeshMode
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies, build_snapshot

TEAM = RuleTexts(pattern="/team/{ns}/{sa}", namespace="{ns}", service_account="{sa}")
MAPPINGS = MappingSet((make_mapping("team", [TrustDomain("td")], [TEAM]),))
FITS, RAW, OTHER = (
    "spiffe://td/team/web/cart",
    "spiffe://td/ns/web/sa/cart",
    "spiffe://x/ns/web/sa/cart",
)


def peer_of(*names: str) -> Peer:
    """Return the peer with these names, as the mappings read it."""
    peer = Peer.from_principal(names[0], names)
    assert peer is not None
    return replace(peer, reading=MAPPINGS.read(names))


def select(mode: MeshMode, *documents: dict[str, Any]) -> WorkloadPolicies:
    """Return the policies of a workload in namespace shop."""
    whole = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"p{number}", "namespace": "shop"},
            **document,
        }
        for number, document in enumerate(documents)
    ]
    snapshot = build_snapshot([("p.yaml", yaml.safe_dump_all(whole))], Mesh(mode=mode))
    return snapshot.select(Workload(namespace="shop"), is_http=False)


def matches(mode: MeshMode, action: str, source: dict[str, Any], *names: str) -> bool:
    """Return whether a rule of that action matches the peer."""
    spec = {"action": action, "rules": [{"from": [{"source": source}]}]}
    found = select(mode, {"spec": spec})
    policies = found.allow if action == "ALLOW" else found.deny
    return policies.first_match(Request(is_http=False, peer=peer_of(*names))) is not None


@pytest.mark.parametrize("mode", [MeshMode.SIDECAR, MeshMode.ZTUNNEL])
@pytest.mark.parametrize(
    ("source", "name", "lets_in", "keeps_out"),
    [
        ({"namespaces": ["web"]}, FITS, True, True),
        ({"namespaces": ["w*"]}, FITS, True, True),
        ({"namespaces": ["team"]}, FITS, False, False),
        ({"namespaces": ["web"]}, RAW, False, True),
        ({"namespaces": ["web"]}, OTHER, True, True),
        ({"serviceAccounts": ["web/cart"]}, FITS, True, True),
        ({"serviceAccounts": ["web/cart"]}, RAW, False, True),
        ({"serviceAccounts": ["cart"]}, FITS, False, False),
        ({"notNamespaces": ["web"]}, FITS, False, False),
        ({"notNamespaces": ["web"]}, RAW, False, True),
        ({"notNamespaces": ["web"]}, OTHER, False, False),
        ({"principals": ["td/team/web/cart"]}, FITS, None, None),
        ({"principals": ["td/ns/web/sa/cart"]}, RAW, True, True),
        ({"principals": ["td/ns/web/sa/cart"]}, FITS, False, False),
    ],
)
def test_conditions(
    mode: MeshMode, source: dict[str, Any], name: str, lets_in: bool | None, keeps_out: bool | None
) -> None:
    """A name that no mapping fits matches where that keeps out, and not where it lets in."""
    if lets_in is None:
        # ztunnel knows no principal of another shape than Kubernetes'.
        lets_in = keeps_out = mode is MeshMode.SIDECAR

    assert lets_in is matches(mode, "ALLOW", source, name)
    assert keeps_out is matches(mode, "DENY", source, name)


def test_ztunnel_wants_an_identity() -> None:
    """STRICT in ztunnel's mode is content with a mapped peer, not with one that none fits."""
    strict = {"kind": "PeerAuthentication", "spec": {"mtls": {"mode": "STRICT"}}}
    required = select(MeshMode.ZTUNNEL, strict).peer

    assert required.admits(Request(is_http=False, peer=peer_of(FITS)))
    assert required.admits(Request(is_http=False, peer=peer_of(OTHER)))
    assert not required.admits(Request(is_http=False, peer=peer_of(RAW)))
    assert not required.admits(Request(is_http=False, peer=peer_of("web.shop")))
    assert not required.admits(Request(is_http=False))


def test_each_name_counts() -> None:
    """A proxy tries every name of a certificate, mapped or not."""
    for names in ((RAW, FITS), (FITS, RAW), ("a.b", FITS)):
        assert matches(MeshMode.SIDECAR, "ALLOW", {"namespaces": ["web"]}, *names)
    assert not matches(MeshMode.SIDECAR, "ALLOW", {"namespaces": ["web"]}, RAW, "a.b")
    assert matches(MeshMode.SIDECAR, "ALLOW", {"namespaces": ["web"]}, RAW, OTHER)
