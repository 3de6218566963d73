"""Dry-run policies, each alone beside the enforced ones, from Istio's own YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.decide import decide_rules
from dryrun.shadow import shadow_verdicts
from policies.decision import Decision, Effect, Layer, Reason, ShadowOutcome
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies, build_snapshot

CASES = yaml.safe_load((Path(__file__).parent / "shadow_cases.yaml").read_text("utf-8"))
REQUEST = Request(method="GET", path="/admin", host="h")
DENY_ALL = {"d": {"action": "DENY", "rules": [{}]}}


def resource(name: str, spec: dict[str, Any], *, dry: bool) -> dict[str, Any]:
    """Return an AuthorizationPolicy document."""
    metadata: dict[str, Any] = {"name": name, "namespace": "shop"}
    if dry:
        metadata["annotations"] = {"istio.io/dry-run": "true"}
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": metadata,
        "spec": spec,
    }


def load_policies(case: dict[str, Any]) -> WorkloadPolicies:
    """Return the policies of a case as they apply to a workload in `shop`."""
    documents = [resource(n, spec, dry=False) for n, spec in case.get("enforced", {}).items()]
    documents += [resource(n, spec, dry=True) for n, spec in case.get("dry", {}).items()]
    text = yaml.safe_dump_all(documents)
    return build_snapshot([("policies.yaml", text)], Mesh()).select(Workload(namespace="shop"))


@pytest.mark.parametrize("case", CASES, ids=[case["note"] for case in CASES])
def test_shadow(case: dict[str, Any]) -> None:
    """Every dry-run policy gets the verdict that enforcing it would have given."""
    policies = load_policies(case)
    enforced = decide_rules(policies, REQUEST)
    if "layer" in case:
        enforced = Decision(
            effect=Effect.DENY, reason=Reason.CUSTOM_DENIED, layer=Layer(case["layer"])
        )
    found = shadow_verdicts(policies, REQUEST, enforced, decide_rules)
    assert case["want"] == [
        [v.policy, v.action, v.matched.name if v.matched else None, str(v.effect), str(v.outcome)]
        for v in found
    ]


def test_a_failing_shadow_leaves_the_answer_alone() -> None:
    """An exception becomes an outcome that names its kind and nothing of its text."""

    def fails(_policies: WorkloadPolicies, _request: Request, /) -> Decision:
        raise ValueError("secret of the request")

    policies = load_policies({"dry": DENY_ALL})
    enforced = decide_rules(policies, REQUEST)
    (found,) = shadow_verdicts(policies, REQUEST, enforced, fails)
    assert (ShadowOutcome.ERROR, enforced.effect) == (found.outcome, found.effect)
    assert found.detail == "the shadow evaluation failed: ValueError"
