"""Every name that an operator meets in a log, a metric, a record or a status is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from audit.record import EventName
from ca.refusal import Refusal
from policies.decision import Layer, Reason

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
AUTHORIZER = ("identity", "audit", "policies", "opa_bridge", "dryrun", "authz")
_LEVELS = {"exception": "error"} | {
    level: level for level in ("debug", "info", "warning", "error", "critical")
}
# Names in code that begin as metrics do: of clusters in Envoy's configuration, and of test runs.
_NO_METRICS = {"meshwarden_sds", "meshwarden_test", "meshwarden_test_run"}


@cache
def _trees(room: str) -> tuple[ast.Module, ...]:
    return tuple(
        ast.parse(path.read_text("utf-8")) for path in sorted((REPOSITORY / room).rglob("*.py"))
    )


def _calls(room: str) -> Iterator[ast.Call]:
    for tree in _trees(room):
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _logged(room: str) -> Iterator[tuple[str, str]]:
    """Event and level of each call of a logger."""
    for call in _calls(room):
        match call.func:
            case ast.Attribute(value=logger, attr=method) if method in _LEVELS:
                if ast.unparse(logger).removeprefix("self.").strip("_") != "log":
                    continue
                [event, *_] = call.args
                assert isinstance(event, ast.Constant), f"{room}: {ast.unparse(call)}"
                yield str(event.value), _LEVELS[method]


def _rows(document: str, heading: str) -> Iterator[tuple[str, str]]:
    """Each name in the first column of the tables below a heading, with the second column."""
    text = (DOCS / document).read_text("utf-8")
    [section] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    for first, second in re.findall(r"^\| (`[^|]*) \|([^|]*)\|", section, re.M):
        yield from ((name, second.strip()) for name in re.findall(r"`([^`]+)`", first))


@pytest.mark.parametrize(
    ("heading", "rooms"),
    [
        ("The log of the authorizer", AUTHORIZER),
        ("The log of the CA and its agent", ("ca",)),
    ],
)
def test_every_event_of_the_log_is_explained(heading: str, rooms: tuple[str, ...]) -> None:
    """Each event that the code logs has a row with its level, and each row an event."""
    logged = {found for room in rooms for found in _logged(room)}

    assert len(logged) > 25
    assert sorted(logged) == sorted(_rows("signals.md", heading))


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Reasons of decisions", [*Reason, *Layer]),
        ("Lines of the record that are no decisions", [*EventName]),
        ("Why the CA refuses", [*Refusal]),
    ],
)
def test_every_code_on_record_is_explained(heading: str, names: list[str]) -> None:
    """Each reason, layer and event of the record has a row, and nothing else has."""
    assert sorted(map(str, names)) == sorted(name for name, _ in _rows("signals.md", heading))


def test_every_trouble_of_the_ca_is_explained() -> None:
    """What `ca status` may name stands in the table of troubles."""
    told = {
        str(keyword.value.value)
        for call in _calls("ca")
        if ast.unparse(call.func) == "Trouble"
        for keyword in call.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    }
    explained = {name for name, _ in _rows("ca-authorities.md", "Status")}

    assert len(told) > 10
    assert told == {name for name in explained if not name.startswith("meshwarden")}


def test_every_metric_is_explained_by_its_whole_name() -> None:
    """What `/metrics` may show can be searched for in the documents, and they name no other."""
    texts = [
        node.value
        for room in ("authz", "ca")
        for tree in _trees(room)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = {text for text in texts if re.fullmatch(r"meshwarden_[a-z0-9_]+", text)} - _NO_METRICS
    families = {name for name in found if name.endswith("_")}
    pages = "\n".join(path.read_text("utf-8") for path in sorted(DOCS.glob("*.md")))
    shown = set(re.findall(r"`(meshwarden_[a-z0-9_]+)(?:\{[^`]*\})?`", pages))
    plain = {name.removesuffix("_total") for name in shown}

    assert len(found) > 40
    assert [] == sorted(found - families - plain)
    assert [] == sorted(each for each in families if not any(s.startswith(each) for s in plain))
    assert [] == sorted(
        name for name in plain - found if not any(name.startswith(each) for each in families)
    )
