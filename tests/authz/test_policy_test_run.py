"""`policy test`: matrices, which cases run, and what the exit code says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from commanding import resources, run_policy

from authz.policytest.matrix import cases_of
from authz.policytest.model import Matrix, PolicyTestFile
from policies.decision import Effect

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "policy-commands.md"
WEB_READS = {
    "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}],
    "to": [{"operation": {"methods": ["GET"], "paths": ["/pay"]}}],
}
SUITE: dict[str, Any] = {
    "apiVersion": "policy.test/v1",
    "kind": "PolicyTest",
    "metadata": {"name": "pay"},
    "policies": {"istio": ["p.yaml"]},
    "workloads": {"pay": {"namespace": "shop"}},
    "identities": {
        "web": {"spiffe": "spiffe://cluster.local/ns/shop/sa/web"},
        "nobody": {"plaintext": True},
    },
    "tokens": {"alice": {"issuer": "https://idp.test", "sub": "alice"}},
    "defaults": {"to": "pay", "from": "web"},
}
MATRIX: dict[str, Any] = {
    "name": "who pays",
    "from": ["web", "nobody"],
    "token": [None],
    "method": ["GET", "POST"],
    "request": {"path": "/pay"},
    "allow": [{"from": "web", "method": "GET"}],
}
CASES = [
    {"name": "reads", "request": {"path": "/pay"}, "expect": {"decision": "allow"}},
    {"name": "wrong", "request": {"path": "/no"}, "expect": {"decision": "allow"}},
    {"name": "late", "request": {"path": "/no"}, "expect": {"decision": "deny"}},
]


@pytest.fixture
def suite(folder: Path) -> Path:
    """A folder with a policy and a suite of three cases, of which the second fails."""
    (folder / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [WEB_READS]}}]))
    write(folder, cases=CASES)
    return folder


def write(folder: Path, name: str = "a", **parts: Any) -> None:
    """Write a suite with these cases or matrices."""
    text = yaml.safe_dump({**SUITE, **parts}, sort_keys=False)
    (folder / f"{name}.policytest.yaml").write_text(text)


def test_what_a_matrix_does_not_list_is_denied(suite: Path) -> None:
    """Each cell is a case of its own, named by its values."""
    write(suite, matrices=[MATRIX])

    result = run_policy("test", "--format", "tap")

    assert 0 == result.exit_code, result.output
    assert [
        "TAP version 14",
        "1..4",
        "ok 1 - pay/who pays [from web, token none, method GET]",
        "ok 2 - pay/who pays [from web, token none, method POST]",
        "ok 3 - pay/who pays [from nobody, token none, method GET]",
        "ok 4 - pay/who pays [from nobody, token none, method POST]",
    ] == result.stdout.splitlines()


def test_a_hole_in_a_policy_fails_the_matrix(suite: Path) -> None:
    """A cell that is allowed and not listed fails, and only that one."""
    (suite / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [{}]}}]))
    write(suite, matrices=[{**MATRIX, "from": ["web"], "allow": [{"method": "GET"}]}])

    result = run_policy("test")

    assert 1 == result.exit_code
    assert "1 passed, 1 failed" in result.stdout
    assert "✗ who pays [from web, token none, method POST]" in result.stdout


def test_a_matrix_says_the_status_of_denials(suite: Path) -> None:
    """`status` holds for the denied cells that have the value, and fails where it is wrong."""
    write(suite, matrices=[{**MATRIX, "status": {"nobody": 403, "POST": 401}}])

    result = run_policy("test")

    assert 1 == result.exit_code
    assert "3 passed, 1 failed" in result.stdout
    assert "status: expected 401, got 403" in result.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"allow": [{"method": "DELETE"}]}, "`allow` names `DELETE`, which the matrix does not"),
        ({"allow": [{"token": "alice"}]}, "`allow` names `alice`"),
        ({"allow": [{"path": "/pay"}]}, "does not have under `path`"),
        ({"status": {"mallory": 401}}, "`status` names `mallory`"),
        ({"from": ["mallory"], "allow": []}, "no identity `mallory` is defined"),
        ({"methods": ["GET"]}, "unknown setting `matrices.0.methods`"),
    ],
)
def test_a_matrix_with_a_slip(change: dict[str, Any], message: str, suite: Path) -> None:
    """What no cell can have is an error with its line, never a cell that nobody tests."""
    write(suite, matrices=[{**MATRIX, **change}])

    result = run_policy("test")

    assert 2 == result.exit_code
    assert message in result.stderr
    assert "a.policytest.yaml:" in result.stderr


def test_a_large_matrix_runs(suite: Path) -> None:
    """Ten thousand cells are ten thousand requests, each answered for itself."""
    write(
        suite,
        matrices=[
            {
                **MATRIX,
                "token": [None, "alice"],
                "path": ["/pay", *(f"/pay/{number}" for number in range(1249))],
                "allow": [{"from": "web", "token": [None], "method": "GET", "path": "/pay"},
                          {"from": "web", "token": "alice", "method": "GET", "path": "/pay"}],
            }
        ],
    )  # fmt: skip

    result = run_policy("test", "--format", "tap")

    assert 0 == result.exit_code, result.stdout[-500:]
    assert "\n1..10000\n" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "ran"),
    [
        ((), 1, ["reads", "wrong", "late"]),
        (("--fail-fast",), 1, ["reads", "wrong"]),
        (("--run", "late|reads"), 0, ["reads", "late"]),
        (("--run", "^pay/wr"), 1, ["wrong"]),
        (("--run", "nothing"), 6, []),
    ],
)
@pytest.mark.usefixtures("suite")
def test_which_cases_run(arguments: tuple[str, ...], code: int, ran: list[str]) -> None:
    """`--run` picks by name, `--fail-fast` ends at the first failure, and 6 is nothing found."""
    result = run_policy("test", *arguments)

    assert code == result.exit_code
    assert ran == [line[4:] for line in result.stdout.splitlines() if line[2:3] in ("✓", "✗")]


@pytest.mark.usefixtures("suite")
def test_list_runs_nothing() -> None:
    """`--list` names each case with its place, also where the policies are gone."""
    Path("p.yaml").unlink()

    listed = run_policy("test", "--list", "--run", "wrong|late")

    assert 0 == listed.exit_code
    assert ["pay/wrong", "pay/late"] == [line.split("\t")[1] for line in listed.stdout.splitlines()]
    assert all(line.startswith("a.policytest.yaml:") for line in listed.stdout.splitlines())
    unfound = run_policy("test", "--list", "--run", "nothing")
    assert 6 == unfound.exit_code
    assert "of `.`" in unfound.stderr, "where was looked is told"
    assert "`nothing` of `--run`" in unfound.stderr


def test_exit_codes_are_distinct(suite: Path) -> None:
    """Broken tests go before broken policies, and those before failures; the others still ran."""
    assert 1 == run_policy("test").exit_code
    write(suite, name="b", policies={"istio": ["gone.yaml"]}, cases=CASES)
    assert 3 == run_policy("test").exit_code
    (suite / "c.policytest.yaml").write_text("kind: PolicyTest\n")

    result = run_policy("test")

    assert 2 == result.exit_code
    assert "2 passed, 1 failed" in result.stdout
    assert "the policies under test do not load" in result.stderr
    assert 2 == run_policy("test", "missing").exit_code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "("), "not a regular expression"),
        (("--format", "html"), "`html` is none of pretty, json"),
        (("--format", "tap", "--format", "json"), "two formats for standard output"),
        (("--format", "tap="), "names no file"),
        (("--format", "pretty=x"), "`pretty` is for standard output"),
    ],
)
@pytest.mark.usefixtures("suite")
def test_a_command_line_with_a_slip(arguments: tuple[str, ...], message: str) -> None:
    """What the command line gets wrong is said before anything runs."""
    result = run_policy("test", *arguments)

    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr


def test_the_documented_matrix_loads() -> None:
    """What docs/policy-commands.md shows of a matrix is one, with all its cells."""
    [text] = re.findall(r"```yaml\n(matrices:.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)

    [matrix] = (Matrix.model_validate(each) for each in yaml.safe_load(text)["matrices"])

    assert 27 == len(list(cases_of(matrix)))
    assert 4 == sum(case.expect.decision is Effect.ALLOW for case in cases_of(matrix))


def test_the_documented_file_loads() -> None:
    """What docs/policy-commands.md shows of a test file is one, with every fixture it names."""
    [text] = re.findall(r"```yaml\n(apiVersion:.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)

    suite = PolicyTestFile.model_validate(yaml.safe_load(text))
    schema = json.loads(DOCUMENT.with_name("policytest.schema.json").read_text("utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)

    assert {case.token for case in suite.cases} - {None} <= set(suite.tokens)
    assert {suite.defaults.from_, "nobody"} <= set(suite.identities)
    assert suite.cases[1].skip
