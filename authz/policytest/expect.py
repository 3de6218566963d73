"""Holds an outcome against what a case expects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from authz.policytest.model import Expectation, HeaderExpectation
from authz.walk import Outcome
from policies.decision import Decision


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not as expected."""

    what: str
    expected: str
    got: str


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
    outcomes = {verdict.policy: verdict.outcome for verdict in outcome.shadow}
    for policy, wanted in expect.shadow.items():
        checks.append((f"shadow {policy}", wanted, outcomes.get(policy, "not shadowed")))
    for what, expected, got_ in checks:
        if expected != got_:
            yield Mismatch(what, str(expected), str(got_))
    if expect.body_contains is not None and expect.body_contains not in decision.body:
        yield Mismatch("body", f"…{expect.body_contains}…", decision.body)
    yield from _compare_headers(expect.headers, decision)


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
