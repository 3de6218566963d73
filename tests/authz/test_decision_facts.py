"""What the record holds of a decision, remembered or not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from audit.record import AuditRecord
from authz.record import record_decision
from authz.walk import Outcome
from policies.decision import Decision, Effect, Layer, Reason, RuleRef
from policies.request import Request

_RULE = RuleRef(namespace="shop", policy="orders", rule=0, file="a.yaml", line=3)
_DECISION = Decision(
    effect=Effect.ALLOW,
    reason=Reason.ALLOW_RULE_MATCHED,
    layer=Layer.ALLOW,
    http_status=200,
    rule=_RULE,
    detail="d",
    near_miss="n",
)
_CHANGES: list[dict[str, Any]] = [
    {},
    {"effect": Effect.DENY},
    {"reason": Reason.NO_ALLOW_RULE_MATCHED},
    {"layer": Layer.DENY},
    {"http_status": 403},
    {"detail": "other"},
    {"detail": "long" * 100},
    {"near_miss": "other"},
    {"rule": None},
    {"rule": replace(_RULE, namespace="pay")},
    {"rule": replace(_RULE, policy="carts")},
    {"rule": replace(_RULE, rule=None)},
    {"rule": replace(_RULE, rule=1)},
    {"rule": replace(_RULE, file="")},
    {"rule": replace(_RULE, line=4)},
]


def _recorded(decision: Decision) -> AuditRecord:
    outcome = Outcome(request=Request(), decision=decision)
    return record_decision(outcome, decision_id="", revision="", decided_at=0.0, duration=0.0)


@pytest.mark.parametrize("changes", _CHANGES, ids=str)
def test_facts_are_those_of_the_decision(changes: dict[str, Any]) -> None:
    """Each field is told as it is, whatever decision came before."""
    for decision in (_DECISION, replace(_DECISION, **changes), _DECISION):
        facts, rule = _recorded(decision).decision, decision.rule
        assert (facts.effect, facts.reason, facts.layer, facts.http_status) == (
            decision.effect,
            decision.reason,
            decision.layer,
            decision.http_status,
        )
        assert (facts.detail, facts.near_miss) == (decision.detail, decision.near_miss)
        assert facts.policy == (f"{rule.namespace}/{rule.policy}" if rule else None)
        assert facts.rule == (rule.rule if rule else None)
        assert facts.place == (rule.place if rule else "")


def test_what_a_rule_says_is_one_object() -> None:
    """The records of one rule's decisions share what they say; a long text is not kept."""
    first, second = _recorded(_DECISION), _recorded(replace(_DECISION))
    assert first.decision is second.decision
    long = replace(_DECISION, detail="x" * 300)
    assert _recorded(long).decision is not _recorded(long).decision
