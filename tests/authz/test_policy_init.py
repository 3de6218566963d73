"""`policy init`: what it writes passes lint and tests, and it stands in nobody's way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commanding import run_policy

from authz.policytest.model import PolicyTestFile

PROGRAMS = Path(sys.executable).parent
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("folder")
def test_what_is_written_passes_lint_and_tests() -> None:
    """The starter is clean to the last severity, and its tests come to all of it."""
    written = run_policy("init", "start")

    assert 0 == written.exit_code, written.output
    assert "next: policy test start" in written.stdout
    lint = run_policy("lint", "start/policies", "--fail-on", "info")
    assert 0 == lint.exit_code, lint.output
    tested = run_policy("test", "start", "--threshold", "100")
    assert 0 == tested.exit_code, tested.output
    assert ", 0 failed" in tested.stdout
    model = yaml.safe_load(Path("start/tests/orders.policytest.yaml").read_text())
    PolicyTestFile.model_validate(model)


@pytest.mark.usefixtures("folder")
def test_a_slip_in_the_starter_fails_its_test() -> None:
    """A method too many is found by the matrix, which names the rule."""
    run_policy("init")
    policy = Path("policies/orders.yaml")
    policy.write_text(policy.read_text().replace('["GET"]', '["GET", "DELETE"]'))

    result = run_policy("test")

    assert 1 == result.exit_code
    assert "decided by shop/orders-readers#0 at policies/orders.yaml:" in result.stdout


@pytest.mark.parametrize(
    ("there", "code"),
    [((), 0), ((".git/",), 0), (("README.md",), 2), ((".git/", "policies/"), 2), ((".env",), 2)],
)
def test_a_folder_that_is_not_empty_is_left_alone(
    there: tuple[str, ...], code: int, folder: Path
) -> None:
    """Nothing is written beside anything, but beside `.git`."""
    for name in there:
        path = folder / name
        path.mkdir() if name.endswith("/") else path.write_text("")

    result = run_policy("init")

    assert code == result.exit_code
    assert (folder / "tests").exists() == (code == 0)
    if code:
        assert "is not empty" in result.stderr
        assert sorted(name.rstrip("/") for name in there) == sorted(
            path.name for path in folder.iterdir()
        )


def test_a_folder_that_cannot_be_made(folder: Path) -> None:
    """A file in the way is named."""
    (folder / "file").write_text("")

    assert 2 == run_policy("init", "file/below").exit_code
    assert 2 == run_policy("init", "file").exit_code


def test_the_workflow_runs_what_there_is(folder: Path) -> None:
    """Each step of the CI workflow that runs `policy` passes in the folder."""
    run_policy("init")
    workflow = yaml.safe_load(Path(".github/workflows/policies.yaml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["policies"]["steps"] if "run" in step]

    ran = [step for step in steps if step.startswith("policy ")]

    assert 2 == len(ran)
    for step in ran:
        command = [str(PROGRAMS / "policy"), *step.split()[1:]]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stdout + done.stderr
    assert (folder / "policy-test.xml").is_file()


def test_the_hooks_of_pre_commit_run(folder: Path) -> None:
    """Each hook's entry passes in the starter, and fails where a policy is broken."""
    run_policy("init")
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    assert ["policy-lint", "policy-test"] == [hook["id"] for hook in hooks]

    def codes() -> list[int]:
        return [
            subprocess.run(
                [str(PROGRAMS / "policy"), *hook["entry"].split()[1:], *hook.get("args", [])],
                cwd=folder,
                capture_output=True,
                check=False,
            ).returncode
            for hook in hooks
        ]

    assert [0, 0] == codes()
    policy = folder / "policies" / "orders.yaml"
    policy.write_text(policy.read_text().replace("action: ALLOW", "action: ALOW"))
    assert [1, 3] == codes()
