"""`policy test --coverage`: what no test came to, and that other tools read the reports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from commanding import resources, run_policy
from pycobertura import Cobertura

PRINCIPAL = "cluster.local/ns/shop/sa/"
ALLOW = {
    "name": "a",
    "spec": {
        "rules": [
            {
                "from": [
                    {"source": {"principals": [f"{PRINCIPAL}web", f"{PRINCIPAL}app"]}},
                    {"source": {"namespaces": ["jobs"], "notPrincipals": [f"{PRINCIPAL}bad"]}},
                ],
                "to": [
                    {"operation": {"methods": ["GET", "HEAD"], "notPaths": ["/no", "/never"]}},
                ],
                "when": [{"key": "request.headers[x-tier]", "values": ["gold"],
                          "notValues": ["lead"]}],
            },
            {"to": [{"operation": {"paths": ["/open"]}}]},
        ]
    },
}  # fmt: skip
DENY = {
    "name": "d",
    "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/no-way"]}}]}]},
}
UNSEEN = {"name": "z", "namespace": "elsewhere", "spec": {"rules": [{}]}}
SUITE: dict[str, Any] = {
    "apiVersion": "policy.test/v1",
    "kind": "PolicyTest",
    "metadata": {"name": "s"},
    "policies": {"istio": ["p.yaml"]},
    "workloads": {"pay": {"namespace": "shop"}},
    "identities": {
        "web": {"spiffe": f"spiffe://{PRINCIPAL}web"},
        "job": {"spiffe": "spiffe://cluster.local/ns/jobs/sa/j"},
        "nobody": {"plaintext": True},
    },
    "defaults": {"to": "pay", "from": "web"},
}
GOLD = {"headers": {"x-tier": "gold"}}
ALLOWED: dict[str, Any] = {"expect": {"decision": "allow"}}
DENIED: dict[str, Any] = {"expect": {"decision": "deny"}}


def case(name: str, more: dict[str, Any], **request: Any) -> dict[str, Any]:
    """A case with its request."""
    return {"name": name, "request": request, **more}


@pytest.fixture
def write(folder: Path) -> Any:
    """Writes the policies and a suite of these cases."""

    def do(*cases: dict[str, Any]) -> Path:
        (folder / "p.yaml").write_text(resources([ALLOW, DENY, UNSEEN]))
        text = yaml.safe_dump({**SUITE, "cases": list(cases)}, sort_keys=False)
        (folder / "a.policytest.yaml").write_text(text)
        return folder

    return do


def measured(*arguments: str) -> dict[str, int]:
    """The count of each thing by its words."""
    result = run_policy("test", "--coverage=json=c.json", *arguments)
    assert 0 == result.exit_code, result.output
    found = json.loads(Path("c.json").read_text())["files"]
    return {
        f"{item['owner']} {item['text']}".strip(): item["count"]
        for each in found
        for item in each["items"]
    }


def test_nothing_is_come_to_by_a_case_that_meets_nothing(write: Any) -> None:
    """What there is to come to is known without any case that comes to it."""
    write(case("none", DENIED, path="/no"))

    assert {
        "elsewhere/z#0": 0,
        "shop/a#0": 0,
        "shop/a#0 from[0]": 0,
        f"shop/a#0 from[0] principals: `{PRINCIPAL}web`": 0,
        f"shop/a#0 from[0] principals: `{PRINCIPAL}app`": 0,
        "shop/a#0 from[1]": 0,
        "shop/a#0 from[1] namespaces: `jobs`": 0,
        f"shop/a#0 from[1] principals: not `{PRINCIPAL}bad`": 0,
        "shop/a#0 to[0] methods: `GET`": 0,
        "shop/a#0 to[0] methods: `HEAD`": 0,
        "shop/a#0 to[0] paths: not `/no`": 0,
        "shop/a#0 to[0] paths: not `/never`": 0,
        "shop/a#0 when request.headers[x-tier]: `gold`": 0,
        "shop/a#0 when request.headers[x-tier]: not `lead`": 0,
        "shop/a#1": 0,
        "shop/a#1 to[0] paths: `/open`": 0,
        "shop/d#0": 0,
        "shop/d#0 to[0] paths: `/no-way`": 0,
    } == measured()


@pytest.mark.parametrize(
    ("more", "request_", "reached"),
    [
        ({**ALLOWED}, {"path": "/x", **GOLD},
         ["shop/a#0", "shop/a#0 from[0]", "principals: `cluster.local/ns/shop/sa/web`",
          "methods: `GET`", "`gold`"]),
        ({**ALLOWED, "from": "job"}, {"path": "/x", "method": "HEAD", **GOLD},
         ["shop/a#0", "shop/a#0 from[1]", "namespaces: `jobs`", "methods: `HEAD`", "`gold`"]),
        # One `not` alone keeps the rule from matching: it is what the test is about.
        ({**DENIED}, {"path": "/no", **GOLD},
         ["shop/a#0 to[0] paths: not `/no`"]),
        # Where more keeps it out, nobody knows that the `not` does anything.
        ({**DENIED}, {"path": "/no", "method": "PUT", **GOLD}, []),
        ({**ALLOWED, "from": "nobody"}, {"path": "/open"}, ["shop/a#1", "paths: `/open`"]),
        ({**DENIED}, {"path": "/no-way"}, ["shop/d#0", "paths: `/no-way`"]),
    ],
)  # fmt: skip
def test_what_one_case_comes_to(
    more: dict[str, Any], request_: dict[str, Any], reached: list[str], write: Any
) -> None:
    """A rule by matching, a value by fitting in it, a `not` by being all that keeps it out."""
    write(case("one", more, **request_))

    found = [key for key, count in measured().items() if count]

    for word in reached:
        assert any(key.endswith(word) for key in found), (word, found)
    if not reached:
        assert not any(" to[0]" in key for key in found)


def test_rules_behind_the_deciding_one_do_not_count(write: Any) -> None:
    """A rule that another stands in for is not tested by it."""
    folder = write(case("open", ALLOWED, path="/open", **GOLD))
    twice = {**ALLOW, "name": "b"}
    (folder / "p.yaml").write_text(resources([ALLOW, twice]))

    found = measured()

    assert (1, 0) == (found["shop/a#0"], found["shop/a#1"])
    assert (0, 0) == (found["shop/b#0"], found["shop/b#1"])


def test_text_names_places(write: Any) -> None:
    """Files come with their share, and each thing missed with file, line and column."""
    write(case("open", ALLOWED, path="/open"))

    result = run_policy("test", "--coverage")

    assert 0 == result.exit_code
    assert re.search(r"^coverage: 11\.1% \(2 of 18\)$", result.stdout, re.MULTILINE)
    assert re.search(r"^  p\.yaml:\d+:\d+  shop/a#0 to\[0\] methods: `HEAD`$", result.stdout,
                     re.MULTILINE)  # fmt: skip
    assert "rule shop/a#0" in result.stdout
    assert "rule shop/a#1" not in result.stdout


@pytest.mark.parametrize(("percent", "code"), [("11", 0), ("11.2", 4), ("100", 4), ("0", 0)])
def test_a_threshold_has_an_exit_code_of_its_own(percent: str, code: int, write: Any) -> None:
    """Below it the code is 4, and what is missing is said; a failure goes before it."""
    write(case("open", ALLOWED, path="/open"))

    result = run_policy("test", "--threshold", percent)

    assert code == result.exit_code
    assert (code == 4) == ("is below" in result.stderr)
    write(case("open", DENIED, path="/open"))
    assert 1 == run_policy("test", "--threshold", percent).exit_code


def test_coverage_adds_up_over_files_and_processes(write: Any) -> None:
    """Two suites of the same policies come to what either does, in any number of processes."""
    folder = write(case("open", ALLOWED, path="/open"))
    other = {**SUITE, "metadata": {"name": "t"}, "cases": [case("no", DENIED, path="/no-way")]}
    (folder / "b.policytest.yaml").write_text(yaml.safe_dump(other))

    alone, together = measured(), measured("--jobs", "2")

    assert alone == together
    assert (1, 1) == (alone["shop/a#1"], alone["shop/d#0"])


@pytest.mark.skipif(shutil.which("genhtml") is None, reason="genhtml (lcov) is not installed")
def test_genhtml_reads_lcov(write: Any) -> None:
    """LCOV's own tool takes the tracefile, and counts the rules as functions."""
    folder = write(case("open", ALLOWED, path="/open"))
    assert 0 == run_policy("test", "--coverage", "lcov=c.info").exit_code

    command = ["genhtml", "c.info", "--branch-coverage", "--output-directory", "html"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    assert 0 == ran.returncode, ran.stderr
    assert "functions..: 25.0% (1 of 4 functions)" in ran.stdout
    assert (folder / "html" / "index.html").is_file()


def test_a_parser_reads_cobertura(write: Any) -> None:
    """The lines without a test are those of the text report."""
    write(case("open", ALLOWED, path="/open"))
    assert 0 == run_policy("test", "--coverage=cobertura=c.xml").exit_code

    report = Cobertura("c.xml")

    assert ["p.yaml"] == report.files()
    assert 0 < report.line_rate() < 1
    assert report.total_misses() == report.total_statements() - report.total_hits()
    text = Path("p.yaml").read_text().splitlines()
    missed = {text[line - 1].strip() for line in report.missed_statements("p.yaml")}
    assert {"- GET", "- HEAD", "- /no-way", "- gold"} <= missed
    assert "- /open" not in missed


def test_html_is_one_file_with_the_source(write: Any) -> None:
    """The page holds the marked text, fetches nothing, and lets nothing of a policy act."""
    folder = write(case("open", ALLOWED, path="/open"))
    hostile = "# <script>alert(1)</script>\n" + (folder / "p.yaml").read_text()
    (folder / "p.yaml").write_text(hostile)
    assert 0 == run_policy("test", "--coverage=html=c.html").exit_code

    page = (folder / "c.html").read_text()

    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert re.search(r'<li value="\d+" class="none">.*- HEAD<span class="missing">no test', page)
    assert re.search(r'<li value="\d+" class="full">.*- /open', page)


def test_no_text_of_a_policy_acts_in_a_report(folder: Path) -> None:
    """Signs that move a terminal, end a line or break XML are shown, whoever wrote them."""
    rule = {"to": [{"operation": {"paths": ["/\x1b[2J\u2028<&>]]>"]}}]}
    (folder / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [rule]}}]))
    suite = {**SUITE, "cases": [case("none", DENIED, path="/no")]}
    (folder / "a.policytest.yaml").write_text(yaml.safe_dump(suite))

    text = run_policy("test", "--coverage").stdout
    for name in ("lcov", "cobertura", "html", "json"):
        assert 0 == run_policy("test", f"--coverage={name}=r.{name}").exit_code

    assert "\x1b" not in text
    assert "\u2028" not in text
    assert "paths: `/\ufffd[2J\ufffd<&>]]>`" in text
    ElementTree.parse(folder / "r.cobertura")
    assert "\x1b" not in (folder / "r.html").read_text()
    assert "<&>" not in (folder / "r.html").read_text()
    assert "\x1b" not in (folder / "r.json").read_text()
    assert all(line.isprintable() for line in (folder / "r.lcov").read_text().split("\n"))


REGO = """package authz

import rego.v1

default allow := false

allow if {
	input.attributes.request.http.method == "GET"
	input.attributes.request.http.path == "/rego"
	count(input.parsed_path) == 1
}

allow if input.attributes.request.http.headers["x-never"]

unused if input.nothing
"""


def test_lines_of_rego_that_serve_a_provider(folder: Path) -> None:
    """A provider's module is measured by what the cases made it evaluate."""
    (folder / "rego.rego").write_text(REGO)
    (folder / "p.yaml").write_text("")
    provider = {"name": "r", "default": True,
                "rego": {"paths": ["rego.rego"], "entrypoint": "authz/allow"}}  # fmt: skip
    suite = {**SUITE, "policies": {"istio": [], "providers": [provider]}}
    cases = [case("put", DENIED, path="/rego", method="PUT"), case("other", DENIED, path="/x")]
    (folder / "a.policytest.yaml").write_text(yaml.safe_dump({**suite, "cases": cases}))

    result = run_policy("test", "--coverage=json=c.json")

    assert 0 == result.exit_code, result.output
    [found] = json.loads((folder / "c.json").read_text())["files"]
    assert "rego.rego" == found["file"]
    reached = {item["line"]: bool(item["count"]) for item in found["items"]}
    assert {7: False, 8: True, 9: True, 10: False, 13: False, 15: False} == reached


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--coverage=svg",), "`svg` is none of text, json, lcov, cobertura, html"),
        (("--coverage=lcov", "--coverage=html"), "two formats for standard output"),
        (("--coverage=lcov", "--format", "json"), "two formats for standard output"),
        (("--threshold", "101"), "101"),
    ],
)
def test_a_command_line_with_a_slip(arguments: tuple[str, ...], message: str, write: Any) -> None:
    """What is wrong is said before anything runs."""
    write(case("open", ALLOWED, path="/open"))

    result = run_policy("test", *arguments)

    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr
