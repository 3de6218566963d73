"""`policy test --format`: reports that other tools read, of one run with every kind of end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from commanding import resources, run_policy

HOSTILE = 'no\x1b[2J, #5: "50%" \\ <&>\u2028]]>'
SUITE: dict[str, Any] = {
    "apiVersion": "policy.test/v1",
    "kind": "PolicyTest",
    "metadata": {"name": "pay"},
    "policies": {"istio": ["p.yaml"]},
    "workloads": {"pay": {"namespace": "shop"}},
    "identities": {"web": {"spiffe": "spiffe://cluster.local/ns/shop/sa/web"}},
    "defaults": {"to": "pay", "from": "web"},
    "cases": [
        {"name": "reads", "expect": {"decision": "allow"}},
        {"name": HOSTILE, "request": {"path": "/x"}, "expect": {"decision": "allow"}},
    ],
}
DENY = {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/x"]}}]}]}


@pytest.fixture
def reports(folder: Path) -> Path:
    """A folder with a passing and a failing case, and a suite whose policies are gone."""
    (folder / "p.yaml").write_text(resources([{"name": "no-x", "spec": DENY}]))
    (folder / "a.policytest.yaml").write_text(yaml.safe_dump(SUITE, sort_keys=False))
    gone = {**SUITE, "policies": {"istio": ["gone.yaml"]}}
    (folder / "b, b.policytest.yaml").write_text(yaml.safe_dump(gone, sort_keys=False))
    return folder


def written(name: str) -> str:
    """The report of that format, from standard output."""
    result = run_policy("test", "--format", name)
    assert 3 == result.exit_code
    return result.stdout


@pytest.mark.usefixtures("reports")
def test_json() -> None:
    """One object: sums, every case with what was decided and where, and what is broken."""
    report = json.loads(written("json"))

    sums = {"passed": 1, "failed": 1, "skipped": 0, "broken": 1, "complete": True}
    assert sums == report["summary"]
    passed, failed = report["results"]
    assert (True, "reads") == (passed["passed"], passed["case"])
    assert (HOSTILE, "a.policytest.yaml", "shop/no-x#0") == tuple(
        failed[key] for key in ("case", "file", "rule")
    )
    assert [{"what": "decision", "expected": "allow", "got": "deny"}] == failed["mismatches"]
    assert "broken-policies" == report["broken"][0]["trouble"]


@pytest.mark.usefixtures("reports")
def test_junit_is_read_by_a_parser() -> None:
    """The counts are those of the elements, and no text breaks out of its place."""
    root = ElementTree.fromstring(written("junit"))

    assert ("3", "1", "1") == tuple(root.get(key) for key in ("tests", "failures", "errors"))
    assert 3 == len(root.findall("testsuite/testcase"))
    [failure] = root.findall("testsuite/testcase/failure")
    assert "decided by shop/no-x#0 at p.yaml:" in (failure.text or "")
    [error] = root.findall("testsuite/testcase/error")
    assert "gone.yaml" in (error.text or "")
    names = [case.get("name", "") for case in root.findall("testsuite/testcase")]
    assert HOSTILE.replace("\x1b", "\ufffd") == names[1]
    assert all(float(case.get("time", "")) >= 0 for case in root.findall("testsuite/testcase"))


@pytest.mark.usefixtures("reports")
def test_tap() -> None:
    """The plan is the number of points; a failure says more in a YAML block."""
    lines = written("tap").splitlines()

    assert ["TAP version 14", "1..3", "ok 1 - pay/reads"] == lines[:3]
    assert lines[3].startswith("not ok 2 - pay/no")
    assert "\\#5" in lines[3]
    assert " #" not in lines[3]
    block = yaml.safe_load("\n".join(lines[lines.index("  ---") + 1 : lines.index("  ...")]))
    assert block["message"].startswith("decision: expected allow, got deny\n")
    assert 1 == sum(line.startswith("not ok 3 - ") for line in lines)


@pytest.mark.usefixtures("reports")
def test_github() -> None:
    """Each failure is one line that marks its file and line, with nothing left unescaped."""
    lines = written("github").splitlines()

    failure, breakage = lines
    assert failure.startswith("::error file=a.policytest.yaml,title=policy test%3A pay/no")
    properties, _, message = failure.removeprefix("::error ").partition("::")
    assert {"file", "title", "line", "col"} == {
        each.partition("=")[0] for each in properties.split(",")
    }
    assert "50%25" in properties
    assert message.startswith("decision: expected allow, got deny%0A")
    assert "gone.yaml" in breakage


@pytest.mark.usefixtures("reports")
def test_sarif() -> None:
    """Each result names a rule of the driver, and its places are URIs with lines from 1."""
    report = json.loads(written("sarif"))

    assert "2.1.0" == report["version"]
    [run] = report["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    failed, broken = run["results"]
    assert {failed["ruleId"], broken["ruleId"]} <= rules
    assert "case-failed" == failed["ruleId"]
    place = failed["locations"][0]["physicalLocation"]
    assert "a.policytest.yaml" == place["artifactLocation"]["uri"]
    assert place["region"]["startLine"] > 1
    [decided] = failed["relatedLocations"]
    assert "p.yaml" == decided["physicalLocation"]["artifactLocation"]["uri"]
    assert "decided by shop/no-x#0" == decided["message"]["text"]
    for result in run["results"]:
        assert result["message"]["text"]
        for each in (*result["locations"], *result.get("relatedLocations", ())):
            assert " " not in each["physicalLocation"]["artifactLocation"]["uri"]


def test_several_at_once(reports: Path) -> None:
    """People read standard output while CI gets its files."""
    result = run_policy(
        "test", "a.policytest.yaml", "--format", "pretty", "--format", "junit=r.xml",
        "--format", "sarif=r.sarif",
    )  # fmt: skip

    assert 1 == result.exit_code
    assert "1 passed, 1 failed" in result.stdout
    assert "testsuites" == ElementTree.parse(reports / "r.xml").getroot().tag
    assert "2.1.0" == json.loads((reports / "r.sarif").read_text())["version"]


@pytest.mark.usefixtures("reports")
def test_a_report_that_cannot_be_written() -> None:
    """The file is named, and the exit code says that something is wrong."""
    result = run_policy("test", "a.policytest.yaml", "--format", "json=missing/r.json")

    assert 2 == result.exit_code
    assert "missing/r.json" in result.stderr


@pytest.mark.usefixtures("reports")
def test_pretty_does_not_act_on_the_terminal() -> None:
    """A name with control characters is shown on its line, and paints nothing."""
    said = run_policy("test", "a.policytest.yaml").stdout

    assert HOSTILE.replace("\x1b", "\ufffd").replace("\u2028", "\ufffd") in said
    assert "\x1b" not in said
