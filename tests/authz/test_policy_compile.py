"""`policy compile`: the command around the compiler, whose filters have tests of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commanding import resources, run_policy

CASES = yaml.safe_load((Path(__file__).parent / "policy_compile.yaml").read_text())


def policy_ids(found: Any) -> list[str]:
    """Return the keys of every `policies` map below a node."""
    if isinstance(found, list):
        return [name for each in found for name in policy_ids(each)]
    if not isinstance(found, dict):
        return []
    here = list(found["policies"]) if isinstance(found.get("policies"), dict) else []
    return here + [name for each in found.values() for name in policy_ids(each)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any], tmp_path: Path) -> None:
    """YAML and JSON hold the same filters: one document, or one line, each."""
    (tmp_path / "p.yaml").write_text(resources(case["policies"]))
    arguments = ["compile", "--to", "envoy-rbac", tmp_path / "p.yaml", *case["args"]]
    if "mesh" in case:
        (tmp_path / "mesh.yaml").write_text(case["mesh"])
        arguments += ["--mesh", tmp_path / "mesh.yaml"]

    plain = run_policy(*arguments)
    as_json = run_policy(*arguments, "-o", "json")

    filters = list(yaml.safe_load_all(plain.stdout))
    assert [0, 0] == [plain.exit_code, as_json.exit_code]
    assert filters == [json.loads(line) for line in as_json.stdout.splitlines()]
    assert case["names"] == [each["name"] for each in filters]
    assert case.get("ids", []) == policy_ids(filters)
    assert case.get("holds", "") in as_json.stdout
    assert case.get("says", "") in plain.stderr


def test_yaml_has_no_aliases(tmp_path: Path) -> None:
    """What is alike is written out each time: Envoy and people read no aliases."""
    rule = {"from": [{"source": {"namespaces": ["a"]}}]}
    (tmp_path / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [rule, rule]}}]))

    result = run_policy("compile", tmp_path / "p.yaml", "--workload", "shop")

    assert "&id" not in result.stdout
    assert "*id" not in result.stdout


def test_texts_that_envoy_would_read_as_booleans_are_quoted(tmp_path: Path) -> None:
    """A value `y` or `n` stays a text: plain, an Envoy refuses the whole configuration for it."""
    rule = {"when": [{"key": "request.headers[x]", "values": ["y", "N", "yes", "yy"]}]}
    (tmp_path / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [rule]}}]))

    result = run_policy("compile", tmp_path / "p.yaml", "--workload", "shop")

    exact = [line.split(": ")[1] for line in result.stdout.splitlines() if "exact:" in line]
    assert exact == ["'y'", "'N'", "'yes'", "yy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("p.yaml",), "--workload"),
        (("--workload", "shop"), "PATH"),
        (("p.yaml", "--workload", "/app=web"), "the namespace is missing"),
        (("p.yaml", "--workload", "shop/app"), "`app` is not of the form `key=value`"),
        (("p.yaml", "--workload", "shop/=web"), "is not of the form `key=value`"),
        (("p.yaml", "--workload", "shop", "--to", "nginx"), "envoy-rbac"),
        (("p.yaml", "--workload", "shop", "-o", "xml"), "yaml"),
        (("none.yaml", "--workload", "shop"), "none.yaml: error: cannot be read"),
        (("bad.yaml", "--workload", "shop"), "bad.yaml:1:1: error"),
        (("p.yaml", "--workload", "shop", "--mesh", "none.yaml"), "none.yaml"),
        (("p.yaml", "--workload", "shop", "--mesh", "bad.yaml"), "bad.yaml:1:1: error"),
        (("p.yaml", "--workload", "shop", "--mesh", "ztunnel.yaml"), "error: "),
    ],
)
def test_what_cannot_be_compiled(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong command line or file ends with exit code 2, a reason, and no filter."""
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [{}]}}]))
    Path("bad.yaml").write_text("- 1\n")
    Path("ztunnel.yaml").write_text("mode: ztunnel\n")

    result = run_policy("compile", *arguments)

    assert (2, "") == (result.exit_code, result.stdout)
    assert message in result.stderr


def test_the_example_works(repository: Path) -> None:
    """The example of `--help` and README.md gives a DENY and an ALLOW filter, among others."""
    result = run_policy(
        "compile", repository / "examples" / "policies", "--workload", "shop/app=orders"
    )

    ids = policy_ids(list(yaml.safe_load_all(result.stdout)))
    assert 0 == result.exit_code
    assert "ns[shop]-policy[web-orders]-rule[0]" in ids
    assert "ns[istio-system]-policy[no-admin]-rule[0]" in ids
