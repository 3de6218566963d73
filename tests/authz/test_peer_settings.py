"""`identity.xfcc`, `.waypoint`, `.mappings`: what is refused and where, and what arrives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from authz.config_file import load_settings
from authz.policytest.run import run_test_file
from authz.settings import Settings
from identity.peer_finding import PeerRules
from policies.diagnostic import LoadError

HEAD = "identity:\n  mappings:\n"
TEAM = "  - {path: '/team/{namespace}/app/{serviceAccount}', trustDomains: [td]}\n"

REFUSED = [
    ("identity:\n  xfcc:\n    trustedPeers:\n    - peer: gw", 4, "a SPIFFE ID or an address range"),
    ("identity:\n  xfcc:\n    trustedPeers:\n    - peer: 10.0.0.1/8", 4, "an address range"),
    ("identity:\n  xfcc:\n    trustedPeers:\n    - peer: spiffe://TD/a", 4, "not a SPIFFE ID"),
    ("identity:\n  xfcc:\n    trustedPeers: [{peer: '::/0', mode: SANITIZE}]", 3, "SANITIZE_SET"),
    ("identity:\n  xfcc:\n    ownMode: NONE", 3, "identity.xfcc.ownMode"),
    ("identity:\n  xfcc: {maxHops: 0}", 2, "identity.xfcc.maxHops"),
    ("identity:\n  waypoint: {peerMetadataKey: X-Peer}", 2, "peerMetadataKey"),
    ("identity:\n  verifyPeers: none", 2, "identity.verifyPeers"),
    (HEAD + "  - {preset: nomad, trustDomains: [td]}", 3, "identity.mappings.0.preset"),
    (HEAD + "  - {preset: osm, trustDomains: []}", 3, "at least 1 entry"),
    (HEAD + "  - {preset: osm}", 3, "trustDomains` is missing"),
    (HEAD + "  - {preset: osm, trustDomains: [TD]}", 3, "not a trust domain"),
    (HEAD + "  - {trustDomains: [td]}", 3, "exactly one of `preset`, `path` and `dns`"),
    (HEAD + "  - {preset: osm, dns: x, trustDomains: [td]}", 3, "exactly one of"),
    (HEAD + "  - {preset: osm, fixed: {a: b}, trustDomains: [td]}", 3, "has no `{a}`"),
    (HEAD + TEAM + "  - {preset: consul, serviceAccount: '{service}', trustDomains: [c]}", 4,
     "drops `{datacenter}`"),
    (HEAD + "  - {path: '/a/{x}/{y}', namespace: '{x}', serviceAccount: s, trustDomains: [c]}", 3,
     "drops `{y}`"),
    (HEAD + TEAM + "  - {preset: osm, trustDomains: [a, td]}\n", 4,
     "mapping `osm` could give a name of `td`"),
    (HEAD + TEAM + "  - {preset: osm, trustDomains: [a]}\n" + TEAM, 5, "could give a name of `td`"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), REFUSED)
def test_refused(tmp_path: Path, text: str, line: int, message: str) -> None:
    """A setting that could let the wrong peer be believed is refused with its place."""
    path = tmp_path / "m.yaml"
    path.write_text(text)

    with pytest.raises(LoadError) as caught:
        load_settings(path)

    assert f"m.yaml:{line}:" in str(caught.value)
    assert message in str(caught.value)


def test_off_by_default(tmp_path: Path) -> None:
    """Without configuration Envoy's word counts and nothing else does."""
    path = tmp_path / "m.yaml"
    path.write_text("{}")

    assert PeerRules() == load_settings(path).identity.to_peer_rules()


def test_to_rules(tmp_path: Path) -> None:
    """What is written arrives."""
    path = tmp_path / "m.yaml"
    path.write_text(
        "identity:\n"
        "  xfcc: {trustedPeers: [{peer: 'spiffe://td/gw'}, {peer: '::/0'}], maxHops: 3}\n"
        "  waypoint: {peerMetadataKey: x-peer}\n"
        "  trustBundles: [{trustDomain: td, file: td.json}]\n"
        "  verifyPeers: all\n"
        "  mappings:\n" + TEAM
    )
    rules = load_settings(path).identity.to_peer_rules()

    assert ["spiffe://td/gw", None] == [
        each.spiffe_id and str(each.spiffe_id) for each in rules.xfcc.forwarders
    ]
    assert (3, "x-peer", frozenset({"td"}), True) == (
        rules.xfcc.max_hops, rules.forwarded_key, rules.verified_domains, rules.verify_all
    )  # fmt: skip
    assert rules.mappings.read(("spiffe://td/team/a/app/b",)) is not None


POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: team, namespace: shop}
spec: {rules: [{from: [{source: {namespaces: [web]}}]}]}
"""
SUITE = """\
apiVersion: policy.test/v1
kind: PolicyTest
metadata: {name: mapped}
policies: {istio: [p.yaml]}
mappings:
- {path: "/team/{namespace}/app/{serviceAccount}", trustDomains: [td]}
workloads: {orders: {namespace: shop}}
identities:
  team: {spiffe: spiffe://td/team/web/app/cart}
  raw: {spiffe: spiffe://td/ns/web/sa/cart}
  other: {spiffe: spiffe://other/ns/web/sa/cart}
defaults: {to: orders}
cases:
- {name: by the mapping, from: team, request: {}, expect: {decision: allow}}
- {name: no other form there, from: raw, request: {}, expect: {decision: deny}}
- {name: elsewhere as in Istio, from: other, request: {}, expect: {decision: allow}}
"""


def test_policy_tests_know_mappings(tmp_path: Path) -> None:
    """A policy test tries policies on mapped names as the server does."""
    (tmp_path / "p.yaml").write_text(POLICY)
    suite = tmp_path / "a.policytest.yaml"
    suite.write_text(SUITE)

    results = list(run_test_file(suite))

    assert [True] * 3 == [each.passed for each in results], results


def test_the_pages_examples_load() -> None:
    """Each configuration in docs/identity.md is valid."""
    page = Path(__file__).parents[2] / "docs" / "identity.md"
    blocks = re.findall(r"```yaml\n(identity:.*?)```", page.read_text("utf-8"), flags=re.DOTALL)

    found = [Settings.model_validate(yaml.safe_load(block)) for block in blocks]

    assert 3 == len(found)
    assert 6 == len(found[-1].identity.to_peer_rules().mappings.mappings)
