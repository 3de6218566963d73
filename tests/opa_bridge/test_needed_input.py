"""The input is cut down to what a policy can see, and the policy cannot tell."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.needed_input import NeededInput
from opa_bridge.result_memory import ResultMemory

DOCUMENT: dict[str, Any] = {
    "attributes": {
        "request": {"http": {"method": "GET", "headers": {"x-a": "1", "x-b": "2"}}},
        "source": {"principal": "p"},
    },
    "parsed_path": ["a", "b"],
    "parsed_body": {"n": 1},
}
HTTP = DOCUMENT["attributes"]["request"]["http"]

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("nothing", "r := true", {}),
    ("a name", "r := input.parsed_path", {"parsed_path": ["a", "b"]}),
    (
        "names and texts",
        'r := input.attributes.request.http.headers["x-a"]',
        {"attributes": {"request": {"http": {"headers": {"x-a": "1"}}}}},
    ),
    (
        "a raw text",
        "r := input.attributes[`source`].principal",
        {"attributes": {"source": {"principal": "p"}}},
    ),
    (
        "a variable ends the way",
        "r if some h; input.attributes.request.http.headers[h]",
        {"attributes": {"request": {"http": {"headers": HTTP["headers"]}}}},
    ),
    (
        "two ways, one inside the other",
        "r if input.attributes.request.http.method; s := input.attributes.request",
        {"attributes": {"request": {"http": HTTP}}},
    ),
    (
        "an import",
        "import input.attributes.request.http as h\nr := h.method",
        {"attributes": {"request": {"http": HTTP}}},
    ),
    ("a number into a list", "r := input.parsed_path[0]", {"parsed_path": ["a"]}),
    ("a later place of a list", "r := input.parsed_path[1]", {"parsed_path": [None, "b"]}),
    ("a place beyond a list", "r := input.parsed_path[7]", {"parsed_path": [None, None]}),
    (
        "a place, and the whole list",
        "r if input.parsed_path[1]; s := count(input.parsed_path)",
        {"parsed_path": ["a", "b"]},
    ),
    ("a place by an expression", "r := input.parsed_path[1 + 0]", {"parsed_path": ["a", "b"]}),
    ("a number that is no place", "r := input.parsed_path[1.0]", {"parsed_path": ["a", "b"]}),
    ("a place of an object", "r := input.attributes[0]", {"attributes": {}}),
    ("a key of a list", "r := input.parsed_path.x", {"parsed_path": ["a", "b"]}),
    ("the whole, bare", "r := count(input)", DOCUMENT),
    ("the whole, by variable", "r if some k; input[k]", DOCUMENT),
    ("the whole, replaced", "r if s with input as {}", DOCUMENT),
    ("data named input", "r := data.input.x", {}),
    ("only in a comment", "# input.parsed_path\nr := true", {}),
    ("only in a string", 'r := "input.parsed_path"', {}),
    ("what is not there", "r := input.absent.key", {}),
    ("a list on the next line", 'r if { x := input\n["attributes"][0]\nx.a }', DOCUMENT),
    ("a list behind a blank", 'r if input ["attributes"]', DOCUMENT),
    ("a control character", 'r := input["a\tb"]', DOCUMENT),
    ("what cannot be read", 'r := $"{input.parsed_path}"', DOCUMENT),
]


@pytest.mark.parametrize(
    ("source", "kept"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_kept(source: str, kept: dict[str, Any]) -> None:
    """Each way into the input keeps what it leads to."""
    needed = NeededInput.of_sources([f"package a\n{source}\n"])
    assert needed.pruned(DOCUMENT) == kept


def test_all_modules_count() -> None:
    """What any module looks at is kept."""
    needed = NeededInput.of_sources(
        ["package a\nr := input.parsed_path\n", "package b\nr := input.parsed_body.n\n"]
    )
    assert needed.pruned(DOCUMENT) == {"parsed_path": ["a", "b"], "parsed_body": {"n": 1}}


PROBE = """package a
default one := null
one := input.a.b
default two := null
two := input.a["c"]
default four := null
four := input.x[1].a
default five := null
five if input.x[0]
default three := null
three := [x | some x in input.d]
r := {"one": one, "two": two, "three": three, "four": four, "five": five}
"""


@cache
def engine_of(source: str) -> EmbeddedEngine:
    """Return the engine of a source; started by the first test that asks for it."""
    return EmbeddedEngine([("a.rego", source)], "a/r", {})


values = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3)
trees = st.recursive(
    values,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdx"), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from("abcdx"), trees, max_size=5))
@settings(max_examples=150, deadline=None)
def test_policy_cannot_tell(document: dict[str, Any]) -> None:
    """The answer is the same with the whole input."""
    whole = engine_of(PROBE + "whole := input\n")
    assert whole.evaluate(document) == engine_of(PROBE).evaluate(document)


def test_a_list_on_the_next_line_hides_nothing() -> None:
    """A denial that is read from a name for the whole input is seen, whatever line comes next."""
    source = """package a
default r := false
r if not denied
denied if {
    x := input
    ["quiet"][0]
    x.denied
}
"""
    engine = EmbeddedEngine([("a.rego", source)], "a/r", {}, workers=1)
    assert not engine.evaluate({"denied": True, "quiet": 1})
    engine.close()


def test_results_are_remembered_within_bounds() -> None:
    """What was asked last is kept, the oldest goes first, large results never stay."""
    memory = ResultMemory(entries=2)
    for name in (b"1", b"2", b"3"):
        memory.keep(name, name)
    memory.keep(b"4", b"x" * 10_000)
    assert [memory.find(name) for name in (b"1", b"2", b"3", b"4")] == [None, b"2", b"3", None]
    assert len(memory) == 2
