"""`policy validate`: what admission would say, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from commanding import resources, run_policy

CASES = yaml.safe_load((Path(__file__).parent / "policy_validate.yaml").read_text())
KEYS = ["file", "line", "column", "path", "severity", "code", "message", "help", "resource"]
BAD = b"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicies\nmetadata: {name: a}\n"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_case(case: dict[str, Any], tmp_path: Path) -> None:
    """Each finding says where it is and what is wrong, and only an error fails the command."""
    path, mesh = tmp_path / "p.yaml", tmp_path / "mesh.yaml"
    path.write_text(case["text"])
    options: tuple[object, ...] = ()
    if "mesh" in case:
        mesh.write_text(case["mesh"])
        options = ("--mesh", mesh)

    as_json = run_policy("validate", path, *options, "--format", "json")
    pretty = run_policy("validate", path, *options)

    findings = json.loads(as_json.stdout)
    assert case["findings"] == [
        {key: found[key] for key in expect}
        for found, expect in zip(findings, case["findings"], strict=True)
    ]
    assert all(list(found) == KEYS and found["file"] == str(path) for found in findings)
    assert [case["exit"]] * 2 == [as_json.exit_code, pretty.exit_code]
    assert case.get("pretty", "") in pretty.stdout
    for found in findings:
        assert f"{found['severity']}[{found['code']}]: {found['message']}" in pretty.stdout
        assert found["help"] in pretty.stdout


def test_what_can_be_read_is_told_beside_what_cannot(tmp_path: Path) -> None:
    """One file that is not UTF-8 does not hide the errors of the others, nor an empty one."""
    (tmp_path / "a.yaml").write_bytes(b"\xff")
    (tmp_path / "b.yaml").write_bytes(BAD)
    (tmp_path / "c.yaml").write_text(" \n")

    result = run_policy("validate", tmp_path, "--format", "json")

    findings = json.loads(result.stdout)
    assert 1 == result.exit_code
    assert ["a.yaml", "b.yaml", "c.yaml"] == [Path(each["file"]).name for each in findings]
    assert "unknown-kind" == findings[1]["code"]


def test_twins_in_several_files_are_found(tmp_path: Path) -> None:
    """Files and folders are one load: the second of two resources of one name is an error."""
    text = resources([{"name": "a", "spec": {"rules": [{}]}}])
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.yml").write_text(text)

    result = run_policy("validate", tmp_path / "a.yaml", tmp_path / "more", "--format", "json")

    [found] = json.loads(result.stdout)
    assert ("duplicate-resource", "AuthorizationPolicy/shop/a") == (
        found["code"],
        found["resource"],
    )


def test_standard_input(tmp_path: Path) -> None:
    """`-` is standard input, as `kubectl get -o yaml` prints it: a list of resources."""
    items = list(yaml.safe_load_all(resources([{"name": "a", "spec": {"rules": [{}]}}])))
    listed = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items})

    good = run_policy("validate", "-", stdin=listed.encode())
    bad = run_policy("validate", "-", "--format", "json", stdin=BAD)
    binary = run_policy("validate", "-", stdin=b"\xff")
    empty = run_policy("validate", "-", stdin=b"")

    assert [0, 1, 1, 1] == [each.exit_code for each in (good, bad, binary, empty)]
    assert "1 resource in 1 file" in good.stdout
    assert "<stdin>" == json.loads(bad.stdout)[0]["file"]
    assert "not UTF-8 at byte 0" in binary.stdout
    assert "standard input is empty" in empty.stdout


def test_pretty_is_quiet_in_a_pipe(tmp_path: Path) -> None:
    """Without a terminal there is no colour, and a file cannot bring its own escape codes."""
    path = tmp_path / "p.yaml"
    path.write_text(
        resources([{"name": "a", "spec": {"action": "DE\u202eNY", "rules": [{}]}}])
        + '---\n"apiVersion": "x\\e[31m"\n"kind": AuthorizationPolicy\n'
    )

    result = run_policy("validate", path)

    assert 1 == result.exit_code
    assert "\x1b" not in result.stdout
    assert "\u202e" not in result.stdout


def test_a_long_line_is_cut_around_its_place(tmp_path: Path) -> None:
    """Of a line of many KiB, what stands around the place is shown, with the mark below it."""
    path = tmp_path / "p.yaml"
    names = ", ".join(f"n{number:05}" for number in range(5000))
    path.write_text(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
        "metadata: {name: a, namespace: shop}\n"
        f"spec: {{rules: [{{from: [{{source: {{namespaces: [{names}, 5]}}}}]}}]}}\n"
    )

    lines = run_policy("validate", path).stdout.splitlines()

    [mark] = [index for index, line in enumerate(lines) if line.strip(" |") == "^"]
    assert max(map(len, lines[mark - 1 : mark + 1])) < 130
    assert "5" == lines[mark - 1][lines[mark].index("^")]


@pytest.mark.parametrize(
    "arguments",
    [(), ("none.yaml",), (".", "--format", "xml"), (".", "--mesh", "none.yaml")],
    ids=["no path", "a path that is not there", "an unknown format", "no mesh file"],
)
def test_usage(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line that cannot be meant is exit code 2, with nothing on standard output."""
    monkeypatch.chdir(tmp_path)

    result = run_policy("validate", *arguments)

    assert (2, "") == (result.exit_code, result.stdout)


def test_wrong_mesh_settings_are_not_the_policies_fault(tmp_path: Path) -> None:
    """A mesh file that cannot be used ends with 2 and its place."""
    (tmp_path / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [{}]}}]))
    mesh = tmp_path / "mesh.yaml"
    mesh.write_text("trustDomian: a\n")

    result = run_policy("validate", tmp_path / "p.yaml", "--mesh", mesh)

    assert 2 == result.exit_code
    assert f"{mesh}:1:1: error" in result.stderr
    assert "did you mean `trustDomain`?" in result.stderr


def test_the_examples_have_no_error(repository: Path) -> None:
    """The example of `--help` and README.md."""
    result = run_policy("validate", repository / "examples" / "policies")

    assert 0 == result.exit_code
    assert "11 resources in 4 files" in result.stdout
