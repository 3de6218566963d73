"""What the `policy` commands have in common: help, options of many values, the mesh file."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
from commanding import resources, run_policy

from authz.commands.options import parse_service, spread
from policies.request import Service

COMMANDS = ("compile", "eval", "explain", "init", "lint", "test", "validate")
ELSEWHERE = ("promote", "replay", "shadow report")
"""Commands that have a page of their own, docs/shadow.md."""
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "policy-commands.md"
EXAMPLES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text("utf-8"), flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("policy ")
]
TEST_FILE = """\
apiVersion: policy.test/v1
kind: PolicyTest
metadata: {name: suite}
policies: {istio: [p.yaml]}
mesh: {trustDomain: one}
workloads: {web: {namespace: shop}}
identities: {peer: {spiffe: "spiffe://one/ns/shop/sa/web"}}
cases:
- {name: a peer of our own domain, from: peer, to: web, expect: {decision: allow}}
"""


@pytest.mark.parametrize("command", (*COMMANDS, *ELSEWHERE))
def test_help_shows_examples_and_exit_codes(command: str) -> None:
    """`--help` of every command has lines to copy and says what its exit codes mean."""
    said = run_policy(*command.split(), "--help").output

    assert f"policy {command} " in said.partition("Examples:")[2]
    assert "Exit codes: 0" in said


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("line", EXAMPLES)
def test_documented_lines_work(
    line: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What docs/policy-commands.md shows runs in this repository; here in a copy of it."""
    shutil.copytree(repository / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)

    for command in line.split(" && "):
        result = run_policy(*shlex.split(command)[1:])

        assert 0 == result.exit_code, result.output
        # The diff of a folder with nothing to mend is empty.
        assert result.stdout or "--diff" in command


def test_every_command_is_documented() -> None:
    """No command is left out of docs/policy-commands.md."""
    assert set(COMMANDS) == {line.split()[1] for line in EXAMPLES}


def test_the_mesh_file_takes_the_place_of_the_tests_own(tmp_path: Path) -> None:
    """`policy test --mesh` runs the same cases in another mesh."""
    principal = {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}]}
    (tmp_path / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [principal]}}]))
    (tmp_path / "a.policytest.yaml").write_text(TEST_FILE)
    (tmp_path / "mesh.yaml").write_text("trustDomain: two\n")
    (tmp_path / "bad.yaml").write_text("mode: side-car\n")

    own = run_policy("test", tmp_path)
    other = run_policy("test", tmp_path, "--mesh", tmp_path / "mesh.yaml")
    bad = run_policy("test", tmp_path, "--mesh", tmp_path / "bad.yaml")

    assert [0, 1, 2] == [own.exit_code, other.exit_code, bad.exit_code]
    assert "did you mean `sidecar`?" in bad.stderr


def test_the_mesh_file_may_be_a_pipe(tmp_path: Path) -> None:
    """`--mesh <(kubectl ...)` is read like a file, and `-` is standard input."""
    principal = {"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}]}
    (tmp_path / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [principal]}}]))
    reading, writing = os.pipe()
    os.write(writing, b"trustDomain: two\n")
    os.close(writing)
    command = ("compile", tmp_path / "p.yaml", "--workload", "shop", "--mesh")

    piped = run_policy(*command, f"/dev/fd/{reading}")
    os.close(reading)
    given = run_policy(*command, "-", stdin=b"trustDomain: two\n")

    assert [0, 0] == [piped.exit_code, given.exit_code], piped.output
    assert "spiffe://two/ns/shop/sa/web" in piped.stdout
    assert piped.stdout == given.stdout


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff", "not UTF-8 at byte 0"), (b" \n", "the file is empty")]
)
def test_a_mesh_file_that_says_nothing(content: bytes, message: str, tmp_path: Path) -> None:
    """What cannot be read as settings is not taken for the defaults."""
    (tmp_path / "p.yaml").write_text(resources([{"name": "a", "spec": {"rules": [{}]}}]))
    (tmp_path / "mesh.yaml").write_bytes(content)

    result = run_policy("validate", tmp_path / "p.yaml", "--mesh", tmp_path / "mesh.yaml")

    assert (2, "") == (result.exit_code, result.stdout)
    assert f"mesh.yaml: error: {message}" in result.stderr


@pytest.mark.parametrize(
    ("given", "spelled"),
    [
        ("--a 1 2 --b 3 4", "--a 1 --a 2 --b 3 4"),
        ("--a=1 2", "--a=1 --a 2"),
        ("--a - 2", "--a - --a 2"),
        ("--b --a 1", "--b --a 1"),
        ("1 2 --a", "1 2 --a"),
        ("", ""),
    ],
)
def test_spread(given: str, spelled: str) -> None:
    """Only further values of a repeatable option get its name; everything else stays."""
    assert spelled.split() == list(spread(given.split(), {"--a"}))


def test_a_service_with_its_kind() -> None:
    """`ServiceEntry/` before the name tells it from a Service."""
    assert parse_service("shop/orders") == parse_service("Service/shop/orders")
    assert parse_service("ServiceEntry/shop/ext") == Service(
        kind="ServiceEntry", namespace="shop", name="ext"
    )
