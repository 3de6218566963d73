"""The demo's own checks: a row that is not as expected is never shown as right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from examples.demo.cases import Case, TokenPlan, load_plan
from examples.demo.client import Answer
from examples.demo.identities import CLIENTS, PLAINTEXT, spiffe_id
from examples.demo.issuer import TokenFault
from examples.demo.runner import Row, compare

_ISSUER = "http://issuer.test"
_CASE = Case(
    peer="web",
    method="GET",
    target="/orders",
    status=200,
    reason="allow_rule_matched",
    policy="shop/web-orders#0",
    token="alice",
    upstream={"x-meshwarden-subject": "{issuer}/alice"},
)
_TOKEN = TokenPlan(claims={"sub": "alice"}, fault=TokenFault.NONE)


def _seen(**headers: str) -> str:
    """Return what the upstream answers when it saw these headers (`_` for `-`)."""
    return json.dumps({"headers": {k.replace("_", "-"): [v] for k, v in headers.items()}})


_ANSWER = Answer(
    status=200,
    headers={},
    body=_seen(x_meshwarden_peer=spiffe_id("web"), x_meshwarden_subject="http://issuer.test/alice"),
    milliseconds=1.0,
)


def _record(**decision: Any) -> dict[str, Any]:
    """Return the audit record of the case, with parts of the decision replaced."""
    fields = {
        "effect": "allow", "policy": "shop/web-orders", "rule": 0, "reason": "allow_rule_matched",
    }  # fmt: skip
    return {
        "decision": {**fields, **decision},
        "peer": {"principal": spiffe_id("web"), "spiffe_id": spiffe_id("web")},
        "subject": {"sub": "alice"},
        "shadow": [],
    }


def _compare(
    answer: Answer = _ANSWER, record: dict[str, Any] | None = None, case: Case = _CASE
) -> Row:
    """Compare with everything right but what is given."""
    return compare(case, answer, record or _record(), issuer_url=_ISSUER, token=_TOKEN)


def test_a_row_that_is_right_has_no_problem() -> None:
    """Nothing is said about a row in which everything is as expected."""
    assert _compare().problems == ()


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (_compare(replace(_ANSWER, status=403)), "status"),
        (_compare(replace(_ANSWER, body=_seen())), "x-meshwarden-peer"),
        (_compare(replace(_ANSWER, body=_seen(authorization="Bearer x"))), "authorization"),
        (_compare(record=_record(effect="deny")), "effect"),
        (_compare(record=_record(rule=1)), "policy"),
        (_compare(record=_record(policy=None)), "policy"),
        (_compare(record=_record(reason="other")), "reason"),
        (_compare(record={**_record(), "peer": None}), "peer"),
        (_compare(record={**_record(), "subject": None}), "subject"),
        (_compare(record={**_record(), "shadow": [{"outcome": "would_deny"}]}), "shadow"),
        (_compare(case=replace(_CASE, shadow="would_deny")), "shadow"),
        (_compare(case=replace(_CASE, body="because")), "body"),
    ],
)
def test_each_difference_is_named(row: Row, problem: str) -> None:
    """One wrong piece of an answer or a record is a problem that names it."""
    assert any(problem in text for text in row.problems)


def test_a_request_without_a_record_is_a_problem() -> None:
    """A decision that left no record does not pass."""
    row = compare(_CASE, _ANSWER, None, issuer_url=_ISSUER, token=_TOKEN)

    assert row.problems == ("there is no audit record of it",)


def test_the_plan_covers_every_identity_and_token() -> None:
    """Each identity and each token of the plan is used by a case, and none is unknown."""
    plan = load_plan()

    assert {case.peer for case in plan.cases} == {*CLIENTS, PLAINTEXT}
    assert {case.token for case in plan.cases} - {""} == set(plan.tokens)


def test_an_unknown_key_of_a_case_is_an_error(tmp_path: Path) -> None:
    """A misspelled expectation cannot pass for none at all."""
    file = tmp_path / "cases.yaml"
    file.write_text(
        "tokens: {}\ncases: [{as: web, request: GET /, status: 200, polcy: a/b}]", encoding="utf-8"
    )

    with pytest.raises(TypeError, match="polcy"):
        load_plan(file)
