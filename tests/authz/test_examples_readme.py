"""What examples/README.md shows is there, and every line of it runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from authz.cli import main, policy_main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEXT = (EXAMPLES / "README.md").read_text("utf-8")
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.splitlines()
]
PROGRAMS = {"policy": policy_main, "meshwarden": main}


@pytest.mark.usefixtures("nameless")
@pytest.mark.parametrize("line", LINES)
def test_the_line_runs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends well in the folder above the examples, and says something."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(line, comments=True)

    result = CliRunner().invoke(PROGRAMS[program], arguments)

    assert 0 == result.exit_code, result.output
    assert result.stdout


def test_every_example_is_listed() -> None:
    """No folder or file to look at goes without a word."""
    shown = set(re.findall(r"\]\(([^)./][^)]*)\)", TEXT))
    there = {each.name for each in EXAMPLES.iterdir() if not each.name.startswith((".", "__"))}

    assert there - {"README.md"} <= shown
