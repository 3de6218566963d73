"""Dry-run policies, each alone beside the enforced ones, from Istio's own YAML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.decide import decide_rules
from dryrun.istio_metadata import istio_metadata
from dryrun.shadow import is_denied_before_rules, shadow_verdicts
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


_BEFORE_RULES = ("REQUEST", "PEER_AUTHENTICATION", "REQUEST_AUTHENTICATION", "CUSTOM", "INTERNAL")


@pytest.mark.parametrize("layer", list(Layer))
@pytest.mark.parametrize("effect", list(Effect))
def test_what_stands_whatever_the_rules_say(layer: Layer, effect: Effect) -> None:
    """A denial of an earlier layer stays one, and the filters of Istio's rules are not reached."""
    policies = load_policies({"dry": {"a": {"action": "ALLOW", "rules": [{}]}}})
    enforced = Decision(effect=effect, reason=Reason.CUSTOM_DENIED, layer=layer)
    stands = effect is Effect.DENY and layer.name in _BEFORE_RULES
    assert is_denied_before_rules(enforced) is stands
    (found,) = shadow_verdicts(policies, REQUEST, enforced, decide_rules)
    assert found.effect is (Effect.DENY if stands else Effect.ALLOW)
    assert found.outcome is (
        ShadowOutcome.SAME if stands or effect is Effect.ALLOW else ShadowOutcome.WOULD_ALLOW
    )
    details = {
        ShadowOutcome.SAME: f"denied before the rules, by {layer}" if stands else "",
        ShadowOutcome.WOULD_ALLOW: "deny would become allow",
    }
    assert found.detail == details[found.outcome]
    assert (found.would is None) is (found.outcome is ShadowOutcome.SAME)
    # "deny the request": behind DENY's filter ALLOW's sees nothing.
    is_reached = not stands and not (effect is Effect.DENY and layer is Layer.DENY)
    told = istio_metadata(policies.dry_run, REQUEST, enforced)
    assert told == (
        {
            "istio_dry_run_allow_shadow_engine_result": "allowed",
            "istio_dry_run_allow_shadow_effective_policy_id": "ns[shop]-policy[a]-rule[0]",
        }
        if is_reached
        else {}
    )


@pytest.mark.parametrize(
    ("rules", "count"),
    [([], 0), ([{}], 1), ([{}, {}, {}], 3), ([{"to": [{"operation": {"ports": ["1"]}}]}] * 2, 2)],
    ids=["none", "one", "three", "two"],
)
def test_rules_are_counted_as_they_were_written(rules: list[Any], count: int) -> None:
    """The verdict says of how many rules it is made."""
    policies = load_policies({"dry": {"a": {"action": "ALLOW", "rules": rules}}})
    (found,) = shadow_verdicts(policies, REQUEST, decide_rules(policies, REQUEST), decide_rules)
    assert found.rules == count


def test_a_rule_that_fails_writes_no_keys() -> None:
    """A policy that is only tried raises nothing, and says nothing of that action."""

    class _Failing:
        def matches(self, _request: Request) -> bool:
            raise ValueError("secret of the request")

    dry = {"a": {"action": "ALLOW"}, "d": {"action": "DENY", "rules": [{}]}}
    allow, deny = sorted(
        load_policies({"dry": dry}).dry_run, key=lambda policy: policy.action.value
    )
    enforced = Decision(effect=Effect.ALLOW, reason=Reason.NO_ALLOW_POLICY, layer=Layer.ALLOW)
    told = istio_metadata((allow, replace(deny, rules=(_Failing(),))), REQUEST, enforced)
    assert told == {"istio_dry_run_allow_shadow_engine_result": "denied"}
    assert istio_metadata((), REQUEST, enforced) == {}
