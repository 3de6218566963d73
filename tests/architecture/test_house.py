"""The order of the house: no machine in it, every public name explained, files of a size."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("identity", "audit", "policies", "opa_bridge", "dryrun", "ca", "authz")
EXPLAINED = (*ROOMS, "bench", "examples")
LONGEST_FILE = 450

# Put together here so that this file does not find itself.
_MACHINE_PATHS = ("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "/tm" + "p/v/", "/opt/whe" + "els")
_INDEX_HOSTS = (
    "py" + "pi.org",
    "python" + "hosted.org",
    "crat" + "es.io",
    "registry.np" + "mjs.org",
    "proxy.go" + "lang.org",
    "repo1.ma" + "ven.org",
    "deb.de" + "bian.org",
)
FOREIGN = re.compile("|".join(map(re.escape, (*_MACHINE_PATHS, *_INDEX_HOSTS))))


def tracked_files() -> list[Path]:
    """The files git knows, those that are new and not ignored too."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True).stdout
    paths = (REPOSITORY / name.decode() for name in listed.split(b"\0") if name)
    return [path for path in paths if path.is_file()]


def python_files(*folders: str) -> list[Path]:
    """The Python files of the named folders."""
    return sorted(path for folder in folders for path in (REPOSITORY / folder).rglob("*.py"))


def shown(path: Path) -> str:
    """A path as people name it."""
    return path.relative_to(REPOSITORY).as_posix()


def unexplained(tree: ast.AST, owner: str = "") -> Iterator[str]:
    """Public functions and classes without a docstring, `owner.name (line n)`."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if node.name.startswith("_") or is_overload(node):
            continue
        if ast.get_docstring(node) is None:
            yield f"{owner}{node.name} (line {node.lineno})"
        if isinstance(node, ast.ClassDef):
            yield from unexplained(node, f"{owner}{node.name}.")


def is_overload(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether a function only restates another's signature, or sets its property."""
    marks = {ast.unparse(mark) for mark in node.decorator_list}
    return any(mark.endswith(("overload", ".setter", ".deleter")) for mark in marks)


@pytest.mark.skipif(not (REPOSITORY / ".git").exists(), reason="not a git checkout")
def test_no_file_names_a_machine_or_an_index() -> None:
    """What stands in the repository holds on every machine."""
    found = [
        f"{shown(path)}:{number}: {hit.group()}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if (hit := FOREIGN.search(line))
    ]

    assert [] == found


@pytest.mark.parametrize("room", EXPLAINED)
def test_every_public_name_has_a_docstring(room: str) -> None:
    """A reader finds each module, class and function explained where it stands."""
    missing = []
    for path in python_files(room):
        tree = ast.parse(path.read_text("utf-8"))
        if ast.get_docstring(tree) is None:
            missing.append(f"{shown(path)}: the module")
        missing.extend(f"{shown(path)}: {name}" for name in unexplained(tree))

    assert [] == missing


def test_own_processes_import_nothing_from_where_they_are_started() -> None:
    """Without `-P` Python looks for modules in the working folder, whoever may write there."""
    started = [
        (shown(path), line.strip())
        for path in python_files(*ROOMS)
        for line in path.read_text("utf-8").splitlines()
        if "[sys.executable" in line
    ]

    assert len(started) >= 5
    assert [] == [each for each in started if '[sys.executable, "-P", "-m"' not in each[1]]


def test_no_file_is_too_long() -> None:
    """A file that outgrows its subject is cut by noun."""
    lengths = {
        shown(path): len(path.read_text("utf-8").splitlines())
        for path in python_files(*EXPLAINED, "tests")
    }

    assert {} == {name: count for name, count in lengths.items() if count > LONGEST_FILE}


def test_every_room_says_what_it_is_for() -> None:
    """Each of the seven folders is a package, and its first words tell its purpose."""
    silent = [
        room
        for room in ROOMS
        if not ast.get_docstring(ast.parse((REPOSITORY / room / "__init__.py").read_text("utf-8")))
    ]

    assert [] == silent


def test_test_files_have_names_of_their_own() -> None:
    """Two test files of one name would hide one another."""
    names = [path.name for path in python_files("tests") if path.name.startswith("test_")]

    assert sorted(set(names)) == sorted(names)


def test_every_test_says_what_it_shows() -> None:
    """Each test opens with one sentence of behaviour."""
    silent = [
        f"{shown(path)}: {node.name}"
        for path in python_files("tests")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_") and ast.get_docstring(node) is None
    ]

    assert [] == silent
