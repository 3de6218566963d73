"""Which policies apply to a workload, and what its mTLS mode is."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from policies.mesh import Mesh
from policies.request import Workload
from policies.snapshot import Snapshot, build_snapshot


def make_set(*resources: tuple[str, str, dict[str, Any], dict[str, Any]]) -> Snapshot:
    """Return the snapshot of `(kind, namespace/name, metadata, spec)` resources."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": kind,
            "metadata": {"namespace": name.split("/")[0], "name": name.split("/")[1], **extra},
            "spec": spec,
        }
        for kind, name, extra, spec in resources
    ]
    return build_snapshot([("s.yaml", yaml.safe_dump_all(documents))], Mesh())


AUTHZ = "AuthorizationPolicy"
PEER = "PeerAuthentication"


@pytest.mark.parametrize(
    ("namespace", "labels", "expected"),
    [
        ("shop", {"app": "orders"}, ["istio-system/mesh", "shop/all", "shop/orders"]),
        ("shop", {"app": "other"}, ["istio-system/mesh", "shop/all"]),
        ("jobs", {"app": "orders", "tier": "x"}, ["istio-system/mesh", "istio-system/tier"]),
    ],
)
def test_attachment(namespace: str, labels: dict[str, str], expected: list[str]) -> None:
    """Root namespace, own namespace and selector decide; targetRefs never reach a sidecar."""
    rules = {"rules": [{}]}
    snapshot = make_set(
        (AUTHZ, "istio-system/mesh", {}, rules),
        (AUTHZ, "istio-system/tier", {}, {"selector": {"matchLabels": {"tier": "x"}}, **rules}),
        (AUTHZ, "shop/all", {}, rules),
        (AUTHZ, "shop/orders", {}, {"selector": {"matchLabels": {"app": "orders"}}, **rules}),
        (AUTHZ, "shop/gate", {}, {"targetRefs": [{"kind": "Service", "name": "x"}], **rules}),
    )

    found = snapshot.select(Workload(namespace=namespace, labels=labels))

    assert expected == [policy.ref.name for policy in found.allow]


def test_actions_are_sorted() -> None:
    """Each policy lands in the list of its action, providers in byte order, shadows apart."""
    custom = {"action": "CUSTOM", "rules": [{}]}
    dry = {"annotations": {"istio.io/dry-run": "true"}}
    snapshot = make_set(
        (AUTHZ, "shop/c2", {}, {**custom, "provider": {"name": "zeta"}}),
        (AUTHZ, "shop/c1", {}, {**custom, "provider": {"name": "alpha"}}),
        (AUTHZ, "shop/d", {}, {"action": "DENY", "rules": [{}]}),
        (AUTHZ, "shop/s", dry, {"action": "DENY", "rules": [{}]}),
        (AUTHZ, "shop/u", {}, {"action": "AUDIT", "rules": [{}]}),
    )

    found = snapshot.select(Workload(namespace="shop"))

    assert ["alpha", "zeta"] == list(found.custom)
    assert ["shop/d"] == [policy.ref.name for policy in found.deny]
    assert ["shop/s"] == [policy.ref.name for policy in found.dry_run]
    assert ["shop/u"] == [policy.ref.name for policy in found.audit]
    assert [] == list(found.allow)


MODES: list[tuple[str, list[Any], int, bool]] = [
    ("nothing means PERMISSIVE", [], 80, False),
    ("mesh", [("istio-system/m", {}, {"mtls": {"mode": "STRICT"}})], 80, True),
    (
        "namespace over mesh",
        [
            ("istio-system/m", {}, {"mtls": {"mode": "STRICT"}}),
            ("shop/n", {}, {"mtls": {"mode": "DISABLE"}}),
        ],
        80,
        False,
    ),
    (
        "UNSET inherits",
        [
            ("istio-system/m", {}, {"mtls": {"mode": "STRICT"}}),
            ("shop/n", {}, {"mtls": {"mode": "UNSET"}}),
        ],
        80,
        True,
    ),
    (
        "a selector in the root namespace is ignored",
        [
            (
                "istio-system/m",
                {},
                {"selector": {"matchLabels": {"a": "b"}}, "mtls": {"mode": "STRICT"}},
            )
        ],
        80,
        False,
    ),
    (
        "the oldest of a level counts",
        [
            ("shop/a", {"creationTimestamp": "2026-02-01T00:00:00Z"}, {"mtls": {"mode": "STRICT"}}),
            ("shop/b", {"creationTimestamp": "2026-01-01T00:00:00Z"}, {}),
        ],
        80,
        False,
    ),
    (
        "a port of the workload's own policy",
        [
            ("istio-system/m", {}, {"mtls": {"mode": "STRICT"}}),
            (
                "shop/w",
                {},
                {
                    "selector": {"matchLabels": {"a": "b"}},
                    "portLevelMtls": {80: {"mode": "PERMISSIVE"}, 81: {"mode": "UNSET"}},
                },
            ),
        ],
        80,
        False,
    ),
]


@pytest.mark.parametrize(("note", "resources", "port", "strict"), MODES, ids=lambda v: str(v)[:40])
def test_peer_mode(note: str, resources: list[Any], port: int, strict: bool) -> None:
    """The mTLS mode resolves from workload over namespace over mesh."""
    snapshot = make_set(*((PEER, name, meta, spec) for name, meta, spec in resources))

    found = snapshot.select(Workload(namespace="shop", labels={"a": "b"}))

    assert strict == found.peer.is_strict(port), note


def test_revision_follows_content() -> None:
    """The revision changes with what is said, not with where it is said."""
    one = make_set((AUTHZ, "shop/a", {}, {}))
    two = make_set((AUTHZ, "shop/a", {}, {"rules": [{}]}))
    text = (
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        "metadata: {name: a, namespace: b}\n"
    )

    assert one.revision != two.revision
    assert (
        build_snapshot([("x.yaml", text)], Mesh()).revision
        == build_snapshot([("y.yaml", text)], Mesh()).revision
    )
    assert (
        build_snapshot([("x.yaml", text)], Mesh()).revision
        != build_snapshot([("x.yaml", text)], Mesh(trust_domain="td")).revision
    )
