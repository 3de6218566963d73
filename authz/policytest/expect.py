"""Holds an outcome against what a case expects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from audit.document import document_from_record
from audit.redact import Redactor
from authz.policytest.model import Expectation, HeaderExpectation
from authz.policytest.result import Mismatch
from authz.record import record_decision
from authz.walk import Outcome
from policies.decision import Decision
from policies.diagnostic import shown

_REDACTOR: Final = Redactor()
_ABSENT: Final = object()


def compare(expect: Expectation, outcome: Outcome) -> Iterator[Mismatch]:
    """Yield everything that is not as expected."""
    decision = outcome.decision
    checks: list[tuple[str, object, object]] = [("decision", expect.decision, decision.effect)]
    if expect.status is not None:
        checks.append(("status", expect.status, decision.http_status))
    if expect.reason is not None:
        checks.append(("reason", expect.reason, decision.reason))
    if expect.policy is not None:
        checks.append(("policy", expect.policy, _policy(expect.policy, decision)))
    if expect.audited_by is not None:
        got = tuple(ref.name for ref in decision.audited_by)
        checks.append(("auditedBy", ", ".join(expect.audited_by), ", ".join(got)))
    if expect.shadow:
        outcomes = {verdict.policy: verdict.outcome for verdict in outcome.shadow}
        for policy, wanted in expect.shadow.items():
            checks.append((f"shadow {policy}", wanted, outcomes.get(policy, "not shadowed")))
    for what, expected, got_ in checks:
        if expected != got_:
            yield Mismatch(what, str(expected), str(got_))
    if expect.body_contains is not None and expect.body_contains not in decision.body:
        yield Mismatch("body", f"…{expect.body_contains}…", decision.body)
    if "headers" in expect.model_fields_set:
        yield from _compare_headers(expect.headers, decision)
    if expect.audit:
        yield from _compare_audit(expect.audit, outcome)


def _policy(expected: str, decision: Decision) -> str:
    """Return the deciding policy, with its rule when the case asks for the rule."""
    if decision.rule is None:
        return ""
    rule = decision.rule
    return rule.name if "#" in expected else f"{rule.namespace}/{rule.policy}"


def _compare_headers(expect: HeaderExpectation, decision: Decision) -> Iterator[Mismatch]:
    mutations = decision.mutations
    yield from _missing("upstream", expect.upstream, mutations.set_request_headers)
    yield from _missing("response", expect.response, mutations.set_response_headers)
    for name in expect.removed:
        if name.lower() not in mutations.remove_request_headers:
            yield Mismatch(f"header {name}", "removed", "kept")


def _missing(
    where: str, expected: dict[str, str], got: Iterable[tuple[str, str]]
) -> Iterator[Mismatch]:
    present = dict(got)
    for name, value in expected.items():
        found = present.get(name.lower())
        if found != value:
            yield Mismatch(f"{where} header {name}", value, "not set" if found is None else found)


def _compare_audit(expected: Mapping[str, Any], outcome: Outcome) -> Iterator[Mismatch]:
    """Yield what the record of the decision does not hold, as it would be written."""
    record = record_decision(
        outcome, decision_id="test", revision="test", decided_at=0.0, duration=0.0
    )
    document = document_from_record(record, node="test", redactor=_REDACTOR)
    # As a reader of the file sees it: lists and objects, and nothing else.
    yield from _differing("audit", expected, json.loads(json.dumps(document)))


def _differing(where: str, expected: Any, got: Any) -> Iterator[Mismatch]:
    """Yield where a JSON value differs; of an object only the keys that are expected count."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        for key, wanted in expected.items():
            yield from _differing(f"{where}.{key}", wanted, got.get(key, _ABSENT))
    elif expected != got:
        found = "absent" if got is _ABSENT else shown(json.dumps(got, ensure_ascii=False))
        yield Mismatch(where, shown(json.dumps(expected, ensure_ascii=False)), found)
