"""The walls of the house: who may import whom, and which files touch the outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("layers.yaml").read_text())
ROOMS: dict[str, list[str]] = LAYERS["rooms"]


def source_files(room: str) -> list[Path]:
    """Every Python file of a room."""
    return sorted((REPOSITORY / room).rglob("*.py"))


def imported_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each absolute import as (dotted name, line), those within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def called_names(tree: ast.AST) -> Iterator[tuple[str, bool, int]]:
    """Each call as (last name, whether it is a method, line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.func.id, False, node.lineno
            elif isinstance(node.func, ast.Attribute):
                yield node.func.attr, True, node.lineno


def wrong_imports(text: str, room: str) -> list[str]:
    """Imports between rooms that the plan does not have, as `line: what`."""
    allowed = {room, *ROOMS[room]}
    tree = ast.parse(text)
    found = {
        f"{line}: {room} must not import {name.split('.')[0]}"
        for name, line in imported_modules(tree)
        if name.split(".")[0] in ROOMS and name.split(".")[0] not in allowed
    }
    return sorted(found)


def outside_contacts(text: str) -> list[str]:
    """Where a file touches the outside, as `line: what`."""
    tree = ast.parse(text)
    found = {
        f"{line}: imports {module}"
        for name, line in imported_modules(tree)
        for module in LAYERS["outside_modules"]
        if name == module or name.startswith(f"{module}.")
    }
    for name, is_method, line in called_names(tree):
        if name in LAYERS["outside_methods" if is_method else "outside_calls"]:
            found.add(f"{line}: calls {'.' if is_method else ''}{name}()")
        if name in LAYERS["hidden_imports"]:
            found.add(f"{line}: calls {name}()")
    return sorted(found)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    """The arrows between the rooms point one way."""
    wrong = [
        f"{path.relative_to(REPOSITORY)}:{what}"
        for path in source_files(room)
        for what in wrong_imports(path.read_text(), room)
    ]

    assert [] == wrong


def test_the_plan_has_no_circle() -> None:
    """A room reaches itself by no way, and every room it names exists."""
    order: list[str] = []
    while len(order) < len(ROOMS):
        ready = [r for r in ROOMS if r not in order and set(ROOMS[r]) <= set(order)]
        assert ready, f"circle among {sorted(set(ROOMS) - set(order))}"
        order.extend(ready)


@pytest.mark.parametrize("room", ROOMS)
def test_only_declared_files_touch_the_outside(room: str) -> None:
    """Sockets, processes and files are met in the declared files only."""
    undeclared = [
        f"{name}:{contact}"
        for path in source_files(room)
        if (name := path.relative_to(REPOSITORY).as_posix()) not in LAYERS["may_touch_the_outside"]
        for contact in outside_contacts(path.read_text())
    ]

    assert [] == undeclared


@pytest.mark.parametrize(("name", "reason"), LAYERS["may_touch_the_outside"].items())
def test_every_declared_file_needs_its_place(name: str, reason: str) -> None:
    """A declaration has a reason, its file exists and does touch the outside."""
    assert reason.strip()
    assert outside_contacts((REPOSITORY / name).read_text())


@pytest.mark.parametrize(
    ("text", "room", "want"),
    [
        ("import identity.peer", "policies", []),
        ("from policies import request", "identity", ["1: identity must not import policies"]),
        ("def f():\n    import authz", "ca", ["2: ca must not import authz"]),
        ("if True:\n    from dryrun.shadow import x", "audit", ["2: audit must not import dryrun"]),
        ("from . import peer", "identity", []),
        ("import authzoid", "identity", []),
    ],
)
def test_the_import_check_sees(text: str, room: str, want: list[str]) -> None:
    """The check itself finds a wrong import wherever it stands."""
    assert want == wrong_imports(text, room)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("import socket", ["1: imports socket"]),
        ("import http.server", ["1: imports http"]),
        ("from urllib import request", ["1: imports urllib.request"]),
        ("from urllib.parse import urlsplit", []),
        ("open('x')", ["1: calls open()"]),
        ("path.write_text('x')", ["1: calls .write_text()"]),
        ("import importlib\nimportlib.import_module('so' + 'cket')", ["2: calls import_module()"]),
        ("import sockets", []),
        ("opened('x')", []),
    ],
)
def test_the_outside_check_sees(text: str, want: list[str]) -> None:
    """The check itself finds each way to the outside, and nothing that only looks like one."""
    assert want == outside_contacts(text)
