"""Rules against requests, as data: `matching.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from identity.claims import VerifiedClaims
from identity.peer import Peer
from policies.matchers import CompiledPolicy
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import build_snapshot

CASES = yaml.safe_load(Path(__file__).with_name("matching.yaml").read_text())


def compile_rule(rule: dict[str, Any], action: str = "ALLOW", **mesh: Any) -> CompiledPolicy:
    """Return a policy of one rule, loaded as the server loads it."""
    text = yaml.safe_dump(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"action": action, "rules": [rule]},
        }
    )
    return build_snapshot([("p.yaml", text)], Mesh(**mesh)).policies[0][1]


def make_request(case: dict[str, Any], *, merged: bool = False) -> Request:
    """Return the request a case describes."""
    headers = {name: tuple(values) for name, values in case.get("headers", {}).items()}
    if "xff" in case:
        headers["x-forwarded-for"] = (case["xff"],)
    return Request(
        method=case.get("method", "GET"),
        path=case.get("path", "/"),
        host=case.get("host", "h"),
        headers=headers,
        headers_merged=merged,
        source_ip=case.get("ip", "192.0.2.7"),
        destination_port=case.get("port", 8080),
        sni=case.get("sni", ""),
        sni_unknown=case.get("sni_unknown", False),
        workload=Workload(namespace="shop"),
        peer=Peer.from_principal(case.get("peer", "")),
        claims=VerifiedClaims(case["claims"]) if "claims" in case else None,
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"])
def test_rule(case: dict[str, Any]) -> None:
    """A rule matches what its case says it matches, and nothing that it says it does not."""
    policy = compile_rule(case["rule"], **case.get("mesh", {}))
    merged = case.get("merged", False)

    for wanted, key in ((True, "match"), (False, "miss")):
        for request in case.get(key, ()):
            got = policy.first_match(make_request(request, merged=merged)) is not None
            assert wanted == got, request
    assert case.get("match") or case.get("miss"), "a case must expect something"


@pytest.mark.parametrize("action", ["DENY", "AUDIT"])
def test_deny_errs_the_other_way(action: str) -> None:
    """Where the message leaves a doubt, a policy that keeps out matches."""
    header = compile_rule({"when": [{"key": "request.headers[r]", "values": ["bad"]}]}, action)
    remote = compile_rule({"from": [{"source": {"remoteIpBlocks": ["10.0.0.0/8"]}}]}, action)
    not_remote = compile_rule({"from": [{"source": {"notRemoteIpBlocks": ["10.0.0.0/8"]}}]}, action)
    sni = compile_rule({"when": [{"key": "connection.sni", "values": ["a.test"]}]}, action)
    joined = make_request({"headers": {"r": ["good, bad"]}}, merged=True)
    apart = make_request({"headers": {"r": ["good, bad"]}}, merged=False)

    assert header.first_match(joined) is not None
    assert header.first_match(apart) is None
    assert sni.first_match(make_request({"sni_unknown": True})) is not None
    assert sni.first_match(make_request({})) is None
    assert remote.first_match(make_request({})) is not None
    assert not_remote.first_match(make_request({})) is not None


def test_failing_names_the_nearest_alternative() -> None:
    """The clauses that failed are those of the alternative that came closest."""
    policy = compile_rule(
        {
            "from": [{"source": {"namespaces": ["a"], "ipBlocks": ["10.0.0.0/8"]}}],
            "to": [
                {"operation": {"methods": ["POST"], "paths": ["/x"]}},
                {"operation": {"methods": ["POST"]}},
            ],
        }
    )

    failing = policy.rules[0].failing(
        make_request({"peer": "spiffe://t/ns/a/sa/b", "ip": "10.1.1.1"})
    )

    assert ["methods"] == [clause.spelled for clause in failing]
