"""`policy shadow report`: the verdict on each dry-run policy, from a real log."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checking import MemoryRecorder, NoKeys, make_message
from commanding import run_policy
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from replaying import NOW, state_of

from audit.record import AuditRecord
from audit.settings import AuditSettings
from audit.writer import AuditWriter
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.walk import Surroundings
from policies.request import Workload

WEB, CRON, ADMIN = (
    f"spiffe://cluster.local/ns/{name}" for name in ("shop/sa/web", "jobs/sa/cron", "shop/sa/admin")
)


def to(*paths: str, **more: Any) -> dict[str, Any]:
    """Return a rule on paths."""
    return {"to": [{"operation": {"paths": list(paths)}}], **more}


def dry(name: str, action: str, *rules: dict[str, Any]) -> dict[str, Any]:
    """Return a dry-run policy."""
    annotations = {"istio.io/dry-run": "true"}
    return {"name": name, "annotations": annotations, "action": action, "rules": list(rules)}


POLICIES = [
    {"name": "open", "rules": [to("/*")]},
    {"name": "no-admin", "action": "DENY", "rules": [to("/admin*")]},
    dry("breaks", "DENY", to("/orders/*"), to("/never"), to("/nor-this")),
    dry("ready", "DENY", to("/admin*")),
    dry("idle", "DENY", to("/nobody")),
    dry("opens", "ALLOW", to("/*")),
]
TRAFFIC = [
    make_message(WEB, path="/orders/1"), make_message(WEB, path="/orders/2"),
    make_message(CRON, path="/orders/3"), make_message(ADMIN, path="/admin"),
    make_message(ADMIN, path="/"),
]  # fmt: skip


def records(policies: list[dict[str, Any]], traffic: list[CheckRequest]) -> list[AuditRecord]:
    """Return the records of real decisions, an hour between each."""
    state, recorder = state_of(policies), MemoryRecorder()
    authorizer = Authorizer(
        state=lambda: state,
        around=Surroundings(keys=NoKeys(), static_workload=Workload(namespace="shop")),
        recorder=recorder,
        metrics=Metrics(),
    )
    for message in traffic:
        authorizer.check(message.SerializeToString())
    return [
        replace(record, decided_at=NOW + 3600 * number)
        for number, record in enumerate(recorder.records)
    ]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The folder of a log of the traffic."""
    writer = AuditWriter(AuditSettings(folder=tmp_path / "log"), node="n")
    for record in records(POLICIES, TRAFFIC):
        writer.offer(record)
    writer.close()
    return tmp_path / "log"


def test_verdicts(log: Path) -> None:
    """Each policy is ready, not exercised, or would break so many callers."""
    result = run_policy("shadow", "report", "--audit", log, "--format", "json")
    assert 0 == result.exit_code
    found = {each["policy"]: each for each in json.loads(result.stdout)["policies"]}
    assert {
        "shop/breaks": "would break 2 callers",
        "shop/ready": "ready",
        "shop/idle": "not exercised",
        "shop/opens": "ready",
        "together": "would break 2 callers",
    } == {name: each["verdict"] for name, each in found.items()}
    breaks = found["shop/breaks"]
    assert (5, 3, 4.0) == (breaks["requests"], breaks["exercised"], breaks["hours"])
    assert {"same": 2, "would_deny": 3} == breaks["outcomes"]
    assert (3, [1, 2]) == (breaks["rules"], breaks["rules_never_fired"])
    assert {"shop/web": 2, "jobs/cron": 1} == breaks["callers_broken"]
    first = breaks["affected"][0]
    assert (2, "shop/web", "GET", "/orders/{*}") == (
        first["count"], first["source"], first["method"], first["path"]
    )  # fmt: skip


def test_text(log: Path) -> None:
    """People read the verdict first, then how long, how much, and who would notice."""
    text = run_policy("shadow", "report", "--audit", log).stdout
    assert "shop/breaks (DENY): would break 2 callers\n  in the record for 4.0 hours" in text
    assert "5 requests shadowed, 3 exercised it: 2 same, 3 would_deny" in text
    assert "of 3 rules, never fired: #1, #2" in text
    assert "be denied  shop/web" in text


def test_a_differing_shadow_is_recorded_whole() -> None:
    """The record holds the other answer with its rule, and says how many rules there are."""
    record = records(POLICIES, TRAFFIC)[0]
    verdicts = {each.policy: each for each in record.shadow}
    would = verdicts["shop/breaks"].would
    assert would is not None
    assert ("deny", "shop/breaks", 0) == (would.effect, would.policy, would.rule)
    assert verdicts["shop/idle"].would is None


def test_nothing_to_tell(tmp_path: Path) -> None:
    """A log without dry-run policies says so; no log is exit code 2."""
    writer = AuditWriter(AuditSettings(folder=tmp_path / "log"), node="n")
    writer.close()
    result = run_policy("shadow", "report", "--audit", tmp_path / "log")
    assert (0, "no dry-run policy is in the record\n") == (result.exit_code, result.stdout)
    assert 2 == run_policy("shadow", "report", "--audit", tmp_path / "none").exit_code
