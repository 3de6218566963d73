"""The trace on record: as `policy explain` tells it, bounded, and without the request."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from checking import MemoryRecorder, ask, make_authorizer, make_message

from audit.document import LINE_ADAPTER, document_from_record
from audit.redact import Redactor
from audit.settings import AuditSettings
from authz.explain.story import tell
from authz.explain.trace import trace_of, tracer

SECRET = "zz-secret"
RULES = [
    {"to": [{"operation": {"methods": ["GET"], "paths": ["/a"]}}],
     "from": [{"source": {"namespaces": ["shop"]}}]},
    {"to": [{"operation": {"paths": ["/b"]}}],
     "when": [{"key": "request.headers[x-key]", "values": ["k"]}]},
]  # fmt: skip
DENY: dict[str, Any] = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/no"]}}]}]}
AUDIT: dict[str, Any] = {"action": "AUDIT", "rules": [{"to": [{"operation": {"paths": ["/a"]}}]}]}
TRIAL = {**DENY, "annotations": {"istio.io/dry-run": "true"}}
SPECS: list[dict[str, Any]] = [DENY, {"rules": RULES}, {"rules": RULES[:1]}, AUDIT, TRIAL]


def recorded(path: str, specs: list[dict[str, Any]] = SPECS, **settings: Any) -> dict[str, Any]:
    """The line of a decision on a path, as a reader finds it."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer(specs, recorder)
    authorizer = replace(authorizer, trace=tracer(AuditSettings(**settings)))
    ask(authorizer, make_message(path=path, x_key=SECRET, authorization=f"Bearer {SECRET}"))
    [record] = recorder.records
    document = document_from_record(record, node="n", redactor=Redactor())
    line: dict[str, Any] = json.loads(json.dumps(document))
    LINE_ADAPTER.validate_python(
        {**line, "seq": 1, "prev": "0" * 64, "hash": "0" * 64}, strict=True
    )
    return line


@pytest.mark.parametrize(
    ("trace", "path", "is_traced"),
    [
        (None, "/no", False),
        ("off", "/no", False),
        ("denied", "/no", True),
        ("denied", "/a", False),
        ("all", "/a", True),
    ],
)
def test_what_is_traced(trace: str | None, path: str, is_traced: bool) -> None:
    """Nothing unless it is wanted; then every denial, or every decision."""
    settings = {} if trace is None else {"trace": trace}

    assert is_traced == ("trace" in recorded(path, **settings))


def test_a_trace() -> None:
    """Each policy has its standing, each rule its tick and what it lacked, in the order asked."""
    trace = recorded("/b", trace="all")["trace"]

    assert ["p0", "p1", "p2", "p3", "p4"] == [
        each["policy"].removeprefix("shop/") for each in trace["policies"]
    ]
    assert {
        "policy": "shop/p1",
        "action": "ALLOW",
        "standing": "no_match",
        "rules": [
            {"rule": 0, "place": "p.yaml:23", "matches": False, "failing": ["paths"]},
            {
                "rule": 1,
                "place": "p.yaml:33",
                "matches": False,
                "failing": ["request.headers[x-key]"],
            },
        ],
    } == trace["policies"][1]
    assert "left_out" not in trace


@pytest.mark.parametrize("path", ["/no", "/a", "/b", "/c"])
def test_the_trace_is_the_story(path: str) -> None:
    """Standings, ticks and what a rule lacked are those that `policy explain` tells."""
    authorizer = make_authorizer(SPECS)
    outcome = authorizer.outcome(make_message(path=path).SerializeToString())
    story = tell(outcome, authorizer.state())

    trace = trace_of(outcome, 100)

    assert trace is not None
    told = [(each.ref.name, str(each.standing), each.rules) for each in story.policies]
    assert [(name, standing) for name, standing, _ in told] == [
        (each.policy, each.standing) for each in trace.policies
    ]
    for (_, _, rules), policy in zip(told, trace.policies, strict=True):
        assert [(rule.ref.rule, rule.matches, rule.failing) for rule in rules] == [
            (rule.rule, rule.matches, rule.failing) for rule in policy.rules
        ]


def test_a_trace_is_bounded() -> None:
    """Of many rules the nearest stand there, and the others are counted."""
    far = {"from": [{"source": {"namespaces": ["x"]}}],
           "to": [{"operation": {"methods": ["PUT"], "paths": ["/x"]}}]}  # fmt: skip
    many: list[dict[str, Any]] = [
        {"rules": [far] * 400}, {"rules": [far, RULES[0]]}, *({"rules": [far]} for _ in range(300)),
    ]  # fmt: skip

    line = recorded("/q", many, trace="denied", trace_rules=3)

    trace = line["trace"]
    told = [rule for policy in trace["policies"] for rule in policy["rules"]]
    assert (3, 400 + 2 + 300 - 3) == (len(told), trace["left_out"])
    assert ["paths"] == min((rule["failing"] for rule in told), key=len)
    assert len(trace["policies"]) <= 3
    assert len(json.dumps(trace)) < 1000


def test_nothing_of_the_request_stands_in_a_trace() -> None:
    """Paths, headers, tokens and names of the caller are the record's to mask, not the trace's."""
    for path in (f"/{SECRET}", "/a", "/b", "/no"):
        trace = recorded(path, trace="all")["trace"]
        assert SECRET not in json.dumps(trace)
        assert "spiffe://" not in json.dumps(trace)


def test_a_decision_before_the_policies_has_no_trace() -> None:
    """Where no policy was looked at there is nothing to tell."""
    recorder = MemoryRecorder()
    authorizer = replace(make_authorizer(SPECS, recorder), trace=tracer(AuditSettings(trace="all")))
    ask(authorizer, b"\xff")

    assert recorder.records[0].trace is None
