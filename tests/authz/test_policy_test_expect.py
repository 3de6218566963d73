"""What a case may expect, and what a failure says of the one condition that was in the way."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from commanding import resources, run_policy

WEB = "cluster.local/ns/shop/sa/web"
READS = {
    "name": "readers",
    "spec": {
        "rules": [
            {
                "from": [{"source": {"principals": [WEB]}}],
                "to": [{"operation": {"methods": ["GET"], "paths": ["/orders"]}}],
            },
            {
                "to": [{"operation": {"methods": ["PUT"]}}],
                "when": [{"key": "request.auth.claims[role]", "values": ["admin", "owner"]}],
            },
        ]
    },
}
NO_ADMIN = {
    "name": "no-admin",
    "spec": {
        "action": "DENY",
        "rules": [{"to": [{"operation": {"paths": ["/admin*"], "notPaths": ["/admin/ok"]}}]}],
    },
}
ELSEWHERE = {"name": "far", "namespace": "other", "spec": {"rules": [{}]}}
IDP = {
    "kind": "RequestAuthentication",
    "name": "idp",
    "spec": {"jwtRules": [{"issuer": "https://idp.test", "jwksUri": "https://idp.test/keys",
                           "outputPayloadToHeader": "x-payload"}]},
}  # fmt: skip
CUSTOM = {
    "name": "ask",
    "spec": {
        "action": "CUSTOM",
        "provider": {"name": "r"},
        "rules": [{"to": [{"operation": {"paths": ["/rego"]}}]}],
    },
}
REGO = """package authz
import rego.v1
default result := {"allowed": false, "headers": {"x-why": "no"}, "body": "no such amount"}
result := {"allowed": true, "response_headers_to_add": {"x-amount": "small"}} if {
	input.parsed_body.amount <= 5
	is_number(input.parsed_body.amount)
}
"""
SUITE: dict[str, Any] = {
    "apiVersion": "policy.test/v1",
    "kind": "PolicyTest",
    "metadata": {"name": "s"},
    "policies": {
        "istio": ["p.yaml"],
        "providers": [{"name": "r", "rego": {"paths": ["p.rego"], "entrypoint": "authz/result"}}],
    },
    "workloads": {"pay": {"namespace": "shop"}},
    "identities": {"web": {"spiffe": f"spiffe://{WEB}"}, "nobody": {"plaintext": True}},
    "tokens": {"alice": {"issuer": "https://idp.test", "sub": "alice", "claims": {"role": "none"}}},
    "defaults": {"to": "pay", "from": "web"},
}


@pytest.fixture
def run(folder: Path) -> Any:
    """Runs one case; what the command printed and its exit code."""
    (folder / "p.rego").write_text(REGO)
    (folder / "p.yaml").write_text(resources([READS, NO_ADMIN, ELSEWHERE, IDP, CUSTOM]))

    def do(case: dict[str, Any]) -> Any:
        suite = {**SUITE, "cases": [{"name": "it", **case}]}
        (folder / "a.policytest.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
        return run_policy("test")

    return do


HOLDS = [
    {"request": {"path": "/orders"},
     "expect": {"decision": "allow", "policy": "shop/readers#0",
                "audit": {"decision": {"reason": "allow_rule_matched", "rule": 0},
                          "peer": {"principal": f"spiffe://{WEB}"}, "subject": None,
                          "audited_by": []}}},
    {"token": "alice", "request": {"path": "/orders", "headers": {"cookie": "id=7"}},
     "expect": {"decision": "allow", "headers": {"removed": ["authorization"]},
                "audit": {"subject": {"issuer": "https://idp.test"},
                          "masked": ["/request/headers/authorization",
                                     "/request/headers/cookie"]}}},
    {"request": {"method": "POST", "path": "/rego", "json": {"amount": 7}},
     "expect": {"decision": "deny", "policy": "shop/ask", "bodyContains": "no such",
                "headers": {"response": {"x-why": "no"}}}},
    {"request": {"path": "/rego", "body": "{\"amount\": 5}",
                 "headers": {"content-type": "application/json"}},
     "expect": {"decision": "deny", "policy": "", "reason": "no_allow_rule_matched"}},
]  # fmt: skip


@pytest.mark.parametrize("case", HOLDS)
def test_what_holds(case: dict[str, Any], run: Any) -> None:
    """Bodies reach Rego, response headers and the written record can be expected."""
    result = run(case)

    assert 0 == result.exit_code, result.output


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        # Expected an allow: the rule that lacked one condition, the values, what there was.
        ({"request": {"method": "POST", "path": "/orders"}, "expect": {"decision": "allow"}},
         ["near miss: shop/readers#0 would have allowed, but `methods` wants `GET` and the request "
          "has POST", "at p.yaml:15:9", "15 │         methods:"]),
        ({"from": "nobody", "request": {"path": "/orders"}, "expect": {"decision": "allow"}},
         [f"near miss: shop/readers#0 would have allowed, but `principals` wants `{WEB}` and the "
          "request has no peer (no client certificate)"]),
        ({"token": "alice", "request": {"method": "PUT"}, "expect": {"decision": "allow"}},
         ["shop/readers#1 would have allowed, but `request.auth.claims[role]` wants `admin`, "
          "`owner` and the request has none"]),
        # Expected a denial: who let it in, and the DENY rule that nearly did not.
        ({"request": {"path": "/orders"}, "expect": {"decision": "deny"}},
         ["decided by shop/readers#0 at p.yaml:"]),
        # Another policy was expected to decide.
        ({"request": {"path": "/admin/x"},
          "expect": {"decision": "deny", "policy": "shop/readers"}},
         ["policy: expected shop/readers, got shop/no-admin",
          "shop/readers was not asked: it was decided before"]),
        ({"request": {"path": "/orders"}, "expect": {"decision": "allow", "policy": "other/far"}},
         ["other/far does not apply to the workload: it is in namespace `other`"]),
        ({"request": {"path": "/orders"},
          "expect": {"decision": "allow", "policy": "shop/readers#1"}},
         ["near miss: shop/readers#1 would have matched, but `methods` wants `PUT`"]),
        # Fields of the record, each by its name.
        ({"request": {"path": "/orders"},
          "expect": {"decision": "allow", "audit": {"decision": {"rule": 1}, "gone": 2}}},
         ["audit.decision.rule: expected 1, got 0", "audit.gone: expected 2, got absent"]),
    ],
)  # fmt: skip
def test_what_a_failure_says(case: dict[str, Any], lines: list[str], run: Any) -> None:
    """The place, the condition and what the request had, so that nobody has to search."""
    result = run(case)

    assert 1 == result.exit_code
    told = [line.strip() for line in result.stdout.splitlines()]
    for wanted in lines:
        assert any(wanted in line for line in told), result.stdout


def test_what_is_skipped_is_counted(run: Any) -> None:
    """A case that waits is neither run nor forgotten, whatever it expects."""
    result = run({"skip": "waits for MESH-12", "from": "nobody", "expect": {"decision": "allow"}})

    assert 0 == result.exit_code
    assert "- it  skipped: waits for MESH-12" in result.stdout
    assert "0 passed, 0 failed, 1 skipped" in result.stdout


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"request": {"body": "x", "json": 1}, "expect": {"decision": "deny"}}, "at most one of"),
        ({"expect": {"decision": "deny", "audit": [1]}}, "audit"),
        ({"expect": {"decision": "deny"}, "skip": True}, "skip"),
        ({"from": "mallory", "expect": {"decision": "deny"}}, "no identity `mallory` is defined"),
        ({"token": "mallory", "expect": {"decision": "deny"}}, "no token `mallory`"),
    ],
)
def test_a_case_with_a_slip(case: dict[str, Any], message: str, run: Any) -> None:
    """The file and the line are named, and the exit code says that the test is broken."""
    result = run(case)

    assert 2 == result.exit_code
    assert message in result.stderr
    assert "a.policytest.yaml:" in result.stderr


@pytest.mark.parametrize("is_terminal", [True, False])
def test_colours_are_for_terminals(is_terminal: bool, run: Any, folder: Path) -> None:
    """A terminal gets marks and differences in colour, a pipe gets plain text."""
    run({"request": {"path": "/orders"}, "expect": {"decision": "deny"}})
    command = [str(Path(sys.executable).parent / "policy"), "test"]
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    environment = {**os.environ, "TERM": "xterm-256color"}

    subprocess.run(command, cwd=folder, stdout=theirs, stderr=theirs, env=environment, check=False)
    said = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)

    assert "it" in said
    assert is_terminal == ("\x1b[" in said)
