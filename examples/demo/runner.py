"""Send the requests, find their audit records, and say what is not as expected."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from audit.errors import AuditReadError
from audit.reader import read_records
from examples.demo.cases import Case, TokenPlan
from examples.demo.client import Answer, send
from examples.demo.identities import PLAINTEXT, spiffe_id

DECISION_ID: Final = "x-meshwarden-decision-id"
PEER: Final = "x-meshwarden-peer"
# BUDGET: the record is written off the hot path, a moment after the answer.
_RECORD_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A case, what came back, its audit record, and every difference in words."""

    case: Case
    answer: Answer
    record: Mapping[str, Any] | None
    problems: tuple[str, ...]


def send_case(case: Case, ports: Mapping[str, int], tokens: Mapping[str, str]) -> Answer:
    """Send the request of a case as the identity of that case."""
    headers = dict(case.headers)
    if case.token:
        headers["authorization"] = f"Bearer {tokens[case.token]}"
    return send(ports[case.peer], case.method, case.target, headers)


def find_records(audit: Path, ids: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """Return the records of these decisions by id, as many as are there in time."""
    wanted = set(ids)
    deadline = time.monotonic() + _RECORD_SECONDS
    pause = threading.Event()
    while True:
        try:
            found: dict[str, Mapping[str, Any]] = {
                record["decision_id"]: record
                for record in read_records(audit)
                if record["decision_id"] in wanted
            }
        except AuditReadError:
            found = {}
        if len(found) == len(wanted) or time.monotonic() > deadline:
            return found
        # The file is another process's: its growth can only be looked for.
        pause.wait(_LOOK_SECONDS)


def compare(
    case: Case,
    answer: Answer,
    record: Mapping[str, Any] | None,
    *,
    issuer_url: str,
    token: TokenPlan | None,
) -> Row:
    """Return the row with all that is not as expected."""
    problems = [*_answer_problems(case, answer), *_upstream_problems(case, answer, issuer_url)]
    if record is None:
        problems.append("there is no audit record of it")
    else:
        problems += _record_problems(case, record, token)
    return Row(case=case, answer=answer, record=record, problems=tuple(problems))


def rule_of(record: Mapping[str, Any]) -> str:
    """Return the deciding rule as `namespace/policy#rule`, empty when no rule decided."""
    policy, rule = record["decision"]["policy"], record["decision"]["rule"]
    if policy is None:
        return ""
    return f"{policy}" if rule is None else f"{policy}#{rule}"


def shadow_of(record: Mapping[str, Any]) -> str:
    """Return what the policies that are not enforced would have changed, empty for nothing."""
    outcomes = {verdict["outcome"] for verdict in record["shadow"]} - {"same"}
    return ", ".join(sorted(outcomes))


def _differs(what: str, expected: object, got: object) -> list[str]:
    """Return the one problem, or none."""
    return [] if expected == got else [f"{what}: expected `{expected}`, got `{got}`"]


def _answer_problems(case: Case, answer: Answer) -> list[str]:
    """Compare status and body."""
    problems = _differs("status", case.status, answer.status)
    if case.body not in answer.body:
        problems.append(f"body: expected `{case.body}` in `{answer.body}`")
    return problems


def _upstream_problems(case: Case, answer: Answer, issuer_url: str) -> list[str]:
    """Compare what reached the upstream, whatever the client claimed to be."""
    if answer.status != 200:
        return []
    peer = None if case.peer == PLAINTEXT else spiffe_id(case.peer)
    expected: dict[str, str | None] = {PEER: peer, "authorization": None, **case.upstream}
    seen = json.loads(answer.body)["headers"]
    problems = []
    for name, value in expected.items():
        wanted = None if value is None else [value.replace("{issuer}", issuer_url)]
        problems += _differs(f"upstream saw `{name}`", wanted, seen.get(name))
    return problems


def _record_problems(case: Case, record: Mapping[str, Any], token: TokenPlan | None) -> list[str]:
    """Compare what the audit record says."""
    decision, peer, subject = record["decision"], record["peer"], record["subject"]
    expected_peer = None if case.peer == PLAINTEXT else spiffe_id(case.peer)
    return [
        *_differs("effect", case.effect, decision["effect"]),
        *_differs("policy", case.policy, rule_of(record)),
        *_differs("reason", case.reason, decision["reason"]),
        *_differs("shadow", case.shadow, shadow_of(record)),
        *_differs("peer", expected_peer, peer and peer["spiffe_id"]),
        *_differs("subject", token and token.subject, subject and subject["sub"]),
    ]
