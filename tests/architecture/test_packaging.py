"""The three places that name our dependencies agree, and every pin carries its hashes."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = REPOSITORY / "requirements"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def wanted(name: str) -> set[str]:
    """The requirement lines of an `.in` file, without comments and `-r`."""
    lines = (REQUIREMENTS / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-"))}


def pins(name: str) -> dict[str, str]:
    """Distribution -> everything that follows it, of a pinned file."""
    entries = re.split(r"^(?=[a-z0-9])", (REQUIREMENTS / name).read_text(), flags=re.MULTILINE)
    return {entry.split("==")[0]: entry for entry in entries if entry.strip()}


def test_run_requirements_are_the_projects_dependencies() -> None:
    """requirements/run.in and pyproject.toml ask for the same."""
    assert set(PROJECT["dependencies"]) == wanted("run.in")


def test_dev_requirements_are_the_projects_dev_extra() -> None:
    """requirements/dev.in and the extra `dev` ask for the same."""
    assert set(PROJECT["optional-dependencies"]["dev"]) == wanted("dev.in")


@pytest.mark.parametrize("name", ["install.txt", "run.txt", "dev.txt"])
def test_every_pin_is_exact_and_hashed(name: str) -> None:
    """Nothing is installed whose bytes were not known beforehand."""
    loose = [
        dist
        for dist, text in pins(name).items()
        if not re.match(r"[a-z0-9.-]+==\S+", text) or "--hash=sha256:" not in text
    ]

    assert [] == loose


def test_what_is_wanted_is_pinned() -> None:
    """Each requirement of the `.in` files has its pin."""
    names = {re.split(r"[<>=\[]", line)[0] for line in wanted("run.in") | wanted("dev.in")}

    assert set() == names - pins("dev.txt").keys()


def test_what_runs_is_what_was_tested() -> None:
    """run.txt pins no other version than dev.txt."""
    assert pins("run.txt").items() <= pins("dev.txt").items()


def test_no_module_is_brought_by_two_packages() -> None:
    """Of two packages with a file of one name, which one counts is decided by who came last."""
    owners: dict[str, set[str]] = {}
    for each in distributions():
        for file in each.files or ():
            if file.suffix == ".py" and ".." not in file.parts:
                owners.setdefault(str(file), set()).add(each.name)
    shared = {name for name, packages in owners.items() if len(packages) > 1}

    # Empty in both.
    assert {"envoy/__init__.py"} >= shared
