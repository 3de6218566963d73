"""`policy lint` as it is called: formats, exit codes, baseline."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from authz.commands.policy import policy_main

POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: shop
  namespace: shop
spec:
  rules:
  - to:
    - operation:
        paths: ["/admin*"]
        methods: ["GET"]
"""


def _run(*args: object, text: str | None = None) -> Result:
    return CliRunner().invoke(policy_main, ["lint", *map(str, args)], input=text)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """Return a file with one warning on line 10."""
    path = tmp_path / "a,b 100%.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Return a file with one error on line 11."""
    path = tmp_path / "bad.yaml"
    path.write_text(POLICY.replace("GET", "get").replace("/admin*", "/admin/*"))
    return path


def test_for_people(policy: Path) -> None:
    """The finding, its line with a mark below its column, the help and the tally."""
    done = _run(policy)
    assert done.exit_code == 0
    for part in (
        "warning[MW0207]",
        "10 |         paths:",
        "^",
        "help: write `/admin`",
        "1 warning",
    ):
        assert part in done.output


@pytest.mark.parametrize(
    ("fail_on", "expected"), [("error", (0, 1)), ("warning", (1, 1)), ("info", (1, 1))]
)
def test_exit_code_by_severity(
    policy: Path, bad: Path, fail_on: str, expected: tuple[int, int]
) -> None:
    """The exit code is 1 from the severity of --fail-on up."""
    codes = [_run(path, "--fail-on", fail_on).exit_code for path in (policy, bad)]
    assert expected == tuple(codes)


def test_json(policy: Path) -> None:
    """One list of objects with place, code, message and help."""
    (row,) = json.loads(_run(policy, "--format", "json").output)
    assert (row["file"], row["line"], row["column"]) == (str(policy), 10, 17)
    assert (row["code"], row["severity"]) == ("MW0207", "warning")
    assert row["path"] == "spec.rules[0].to[0].operation.paths[0]"


def test_sarif(policy: Path) -> None:
    """SARIF has the rule, the region and a file name that is a URI."""
    log = json.loads(_run(policy, "--format", "sarif").output)
    (run,) = log["runs"]
    (result,) = run["results"]
    rules = run["tool"]["driver"]["rules"]
    assert log["version"] == "2.1.0"
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "MW0207"
    place = result["locations"][0]["physicalLocation"]
    assert place["region"] == {"startLine": 10, "startColumn": 17}
    assert place["artifactLocation"]["uri"].endswith("/a%2Cb%20100%25.yaml")


def test_sarif_keeps_what_was_suppressed(policy: Path) -> None:
    """A suppressed finding is in the log, marked, and in no other format."""
    note = '  annotations:\n    meshwarden.io/lint-ignore: "MW0207: legacy"\nspec:'
    policy.write_text(POLICY.replace("spec:", note, 1))
    (result,) = json.loads(_run(policy, "--format", "sarif").output)["runs"][0]["results"]
    assert result["suppressions"] == [{"kind": "inSource"}]
    assert _run(policy, "--format", "json").output == "[]\n"
    assert "1 suppressed" in _run(policy).output


def test_github(policy: Path) -> None:
    """One workflow command a finding; what would end a field is escaped."""
    (line,) = _run(policy, "--format", "github").output.splitlines()
    assert line.startswith("::warning file=")
    assert "a%2Cb 100%25.yaml,line=10,col=17,title=MW0207::" in line


def test_checkstyle(bad: Path) -> None:
    """XML that a parser reads, whatever the author's text holds."""
    bad.write_text(POLICY.replace('"GET"', '"<g&\\u0007\\"\'"'))
    tree = ElementTree.fromstring(_run(bad, "--format", "checkstyle").output)
    found = [each.get("source") for each in tree.iter("error")]
    assert "meshwarden.MW0211" in found
    assert [each.get("name") for each in tree.iter("file")] == [str(bad)]


def test_quiet_when_nothing_is_found(policy: Path) -> None:
    """A clean set prints `ok` to people and nothing to GitHub."""
    policy.write_text(POLICY.replace("/admin*", "/admin/*"))
    assert _run(policy).output == "1 resource: ok\n"
    assert _run(policy, "--format", "github").output == ""


def test_baseline(policy: Path, tmp_path: Path) -> None:
    """What a baseline holds is not told; what is new is."""
    baseline = tmp_path / "lint.json"
    assert _run(policy, "--write-baseline", baseline).exit_code == 0
    assert _run(policy, "--baseline", baseline, "--fail-on", "info").exit_code == 0
    policy.write_text(POLICY.replace("GET", "get"))
    done = _run(policy, "--baseline", baseline, "--format", "json")
    assert [row["code"] for row in json.loads(done.output)] == ["MW0211"]


def test_a_baseline_that_is_none(policy: Path, tmp_path: Path) -> None:
    """Another file in its place, or no file, is exit code 2."""
    assert _run(policy, "--baseline", policy).exit_code == 2
    assert _run(policy, "--baseline", tmp_path / "absent").exit_code == 2


def test_skip(policy: Path) -> None:
    """A code can be left out; one that is none is refused."""
    assert _run(policy, "--skip", "MW0207", "--format", "json").output == "[]\n"
    assert _run(policy, "--skip", "MW9999").exit_code == 2


def test_standard_input() -> None:
    """`-` is standard input."""
    (row,) = json.loads(_run("-", "--format", "json", text=POLICY).output)
    assert (row["file"], row["code"]) == ("<stdin>", "MW0207")


def test_an_unreadable_file_is_an_error(policy: Path) -> None:
    """An empty file is told as an error, and the others are linted."""
    (policy.parent / "empty.yaml").write_text("")
    done = _run(policy.parent, "--format", "json")
    assert done.exit_code == 1
    assert {row["code"] for row in json.loads(done.output)} == {"unreadable-file", "MW0207"}


def test_explain() -> None:
    """`--explain` prints the page of a code, the list of all, or that there is none."""
    assert "# MW0207: path prefix without a boundary" in _run("--explain", "mw0207").output
    assert "MW0813  warning" in _run("--explain", "all").output
    assert _run("--explain", "MW9999").exit_code == 2
