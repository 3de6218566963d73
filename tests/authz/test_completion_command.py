"""Shell completion: the scripts are read by their shells, and complete both programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from authz.cli import main

PROGRAMS = Path(sys.executable).parent


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_both_programs(shell: str) -> None:
    """The script names both programs, and the shell reads it where it is installed."""
    result = CliRunner().invoke(main, ["completion", shell])

    assert 0 == result.exit_code
    assert "_MESHWARDEN_COMPLETE" in result.stdout
    assert "_POLICY_COMPLETE" in result.stdout
    program = shutil.which(shell)
    if program is not None:
        command = [program, "-n"] if shell != "fish" else [program, "--no-execute"]
        ran = subprocess.run(
            command, input=result.stdout, capture_output=True, text=True, check=False
        )
        assert 0 == ran.returncode, ran.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("policy te", "test"),
        ("policy test --cov", "--coverage"),
        ("policy lint --fail-on w", "warning"),
        ("meshwarden pol", "policy"),
        ("meshwarden completion z", "zsh"),
    ],
)
def test_words_are_completed(words: str, found: str) -> None:
    """The program itself says what goes on from what is typed."""
    program = words.split(maxsplit=1)[0]
    environment = {
        **os.environ,
        f"_{program.upper()}_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }

    ran = subprocess.run(
        [str(PROGRAMS / program)], env=environment, capture_output=True, text=True, check=False
    )

    assert f"plain,{found}" in ran.stdout.splitlines()


def test_an_unknown_shell_is_refused() -> None:
    """The shells there are scripts for are named."""
    result = CliRunner().invoke(main, ["completion", "tcsh"])

    assert 2 == result.exit_code
    assert "'bash', 'zsh', 'fish'" in result.stderr
