"""`meshwarden audit query` and `tail` as a person calls them."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from audit.chain import ChainState, link_line, segment_name
from authz.cli import main


def _document(number: int, **decision: Any) -> dict[str, Any]:
    return {
        "kind": "decision",
        "schema": 1,
        "decision_id": f"{number:032x}",
        "decided_at": f"2026-11-20T10:00:{number:02d}.000000Z",
        "node": "n",
        "peer": {"principal": f"spiffe://td/ns/a/sa/{'ab'[number % 2]}", "spiffe_id": None},
        "request": {"method": "GET", "host": "=1+1", "path": f"/orders/{number}?token=x"},
        "decision": {"effect": "deny", "policy": "shop/p", "rule": 0, "http_status": 403}
        | decision,
    }


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of ten denials and one decision that allowed."""
    folder, state = tmp_path / "log", ChainState()
    folder.mkdir()
    with (folder / segment_name(1)).open("wb") as file:
        for number in range(11):
            changes = {"effect": "allow", "policy": None} if number == 10 else {}
            line, state = link_line(state, _document(number, **changes))
            file.write(line)
    return folder


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *map(str, arguments)])


def test_query_lists_what_is_asked_for(log: Path) -> None:
    """Options narrow the list, and a table says when it shows only the newest."""
    found = _run("query", log, "--decision", "deny", "--peer", "*/sa/a", "--limit", "2")
    assert found.exit_code == 0
    assert ["/orders/6?" in line or "/orders/8?" in line for line in found.stdout.splitlines()] == [
        True,
        True,
    ]
    assert "the newest 2 are shown" in found.stderr


def test_query_counts(log: Path) -> None:
    """`--by` counts allowed and denied by columns, in every format."""
    rows = _run("query", log, "--by", "peer", "--format", "json", "--where", "seq > 1").stdout
    assert [json.loads(row)["denied"] for row in rows.splitlines()] == [4, 5]
    table = _run("query", log, "--by", "policy,effect").stdout.splitlines()
    assert table[1].split()[:4] == ["shop/p", "deny", "0", "10"]


def test_query_gives_csv_and_json(log: Path) -> None:
    """JSON is the documents as written; no cell of CSV is a formula."""
    documents = [json.loads(line) for line in _run("query", log, "--format", "json").stdout.split()]
    assert [each["seq"] for each in documents] == list(range(1, 12))
    rows = list(csv.DictReader(io.StringIO(_run("query", log, "--format", "csv").stdout)))
    assert rows[0]["host"] == "'=1+1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--where", "nope = 1"], "is no condition"),
        (["--by", "nope"], "is no column"),
        (["--since", "soon"], "is no time"),
    ],
)
def test_query_that_is_wrong_ends_with_2(log: Path, arguments: list[str], message: str) -> None:
    """What cannot be understood is said in one line, with exit code 2."""
    found = _run("query", log, *arguments)
    assert found.exit_code == 2
    assert message in found.stderr
    assert "Traceback" not in found.output


def test_tail_shows_the_newest(log: Path) -> None:
    """`tail -n` shows the last decisions as lines or as JSON, and tells of damage."""
    assert _run("tail", log, "-n", "2").stdout.count("\n") == 2
    path = log / segment_name(1)
    path.write_bytes(path.read_bytes().replace(b"/orders/10?", b"/orders/11?"))
    found = _run("tail", log, "-n", "1", "--format", "json")
    assert "DAMAGED" in found.stderr


def test_tail_follows_until_it_is_ended(log: Path) -> None:
    """`tail -f` shows a decision that is written later, and ends well on SIGINT."""
    command = [sys.executable, "-m", "authz.cli", "audit", "tail", "-f", "-n", "1", str(log)]
    last = (log / segment_name(1)).read_bytes().splitlines()[-1]
    state = ChainState(11, json.loads(last)["hash"])
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as tail:
        assert tail.stdout is not None
        assert "/orders/10?" in tail.stdout.readline()
        with (log / segment_name(1)).open("ab") as file:
            file.write(link_line(state, _document(30))[0])
        assert "/orders/30?" in tail.stdout.readline()
        tail.send_signal(signal.SIGINT)
        assert tail.wait(timeout=10) == 0


_POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: web, namespace: shop}
spec:
  action: ALLOW
  rules:
    - from: [{source: {principals: [td/ns/a/sa/a, "*"]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: trial, namespace: shop, annotations: {istio.io/dry-run: "true"}}
spec: {action: ALLOW, rules: [{}]}
"""


def test_report_names_grants_that_nobody_used(log: Path, tmp_path: Path) -> None:
    """Grants come from policy files, those that are only tried left out."""
    policies = tmp_path / "policies.yaml"
    policies.write_text(_POLICIES)
    found = _run(
        "report", log, "--report", "granted-unused", "--format", "jsonl", "--policies", policies
    )
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(row["policy"], row["use"], row["unused_principals"]) for row in rows] == [
        ("shop/web", "never", "td/ns/a/sa/a")
    ]
    assert rows[0]["place"].endswith("policies.yaml:8")


def test_report_is_a_page_of_its_own(log: Path, tmp_path: Path) -> None:
    """Without options the report is one page; what is wrong leaves no file behind."""
    page = tmp_path / "report.html"
    assert "7 sections" in _run("report", log, "-o", page).stderr
    assert "Access matrix" in page.read_text()
    other = tmp_path / "report.csv"
    found = _run("report", log, "--format", "csv", "-o", other)
    assert found.exit_code == 2
    assert "one report at a time" in found.stderr
    assert not other.exists()
