"""Modules are written out for the library so that it negates, and hides names, as OPA does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_direct_cases import ANSWERS, input_of, named, source_of

from opa_bridge.capabilities import Module, check_modules, scan_module
from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.errors import EngineError
from opa_bridge.hidden_names import part_names
from opa_bridge.negated_needs import state_needs

CASES = [case for case in ANSWERS if "negated" in case["note"] or "hides" in case["note"]]


@pytest.mark.parametrize("case", named(CASES))
def test_library_answers_as_opa(case: dict[str, Any]) -> None:
    """What the fragment's cases say of negation and hidden names, the worker says too."""
    modules = [("a.rego", source_of(case))]
    engine = EmbeddedEngine(modules, "a/r", {}, workers=1, in_process=False)
    try:
        if "value" in case:
            assert case["value"] == engine.evaluate(input_of(case))
        else:
            with pytest.raises(EngineError, match="undefined"):
                engine.evaluate(input_of(case))
        assert engine.stats().in_process == 0
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("literal", "written"),
    [
        ("not x", "not x"),
        ("not input.x.y == 1", "not input.x.y == 1"),
        ("not f(1)", "not f(1)"),
        ("not f(input.x)", "N0 := input.x; not f(N0)"),
        ("not f(x, h)", "N0 := x; N1 := h; not f(N0, N1)"),
        ("not input.x[y.z]", "N0 := y.z; not input.x[N0]"),
        (
            "not f(x) with input.q as 1\n    with data.y as {2, 3}",
            "N0 := x with input.q as 1 with data.y as {2, 3}; "
            "not f(N0) with input.q as 1\n    with data.y as {2, 3}",
        ),
        ("not f(x) with input as 1 + 2", None),
        ("not x with input.q as 1", "not x with input.q as 1"),
        ("not g(f(x), 2) > 1", "N0 := g(f(x), 2); not N0 > 1"),
        ("not count([1 | not f(y)]) == 1", "not count([1 | N0 := y; not f(N0)]) == 1"),
        ("not x + 1 == y - z", "N0 := x + 1; N1 := y - z; not N0 == N1"),
        ("not f(\n    # c\n    x,\n  )", "N0 := x; not f(\n    # c\n    N0,\n  )"),
        ("input.not == f(x)", "input.not == f(x)"),
        ('x == "not f(x)"', 'x == "not f(x)"'),
        ("not (x)", None),
        ("not f(x)[0]", None),
        ("not x | y == z", None),
        ("not {k: v | some k, v in x} == {}", None),
    ],
)
def test_needs_are_stated(literal: str, written: str | None) -> None:
    """What OPA takes out of a negation stands before it; what cannot be told is refused."""
    source = f"package a\nr if {{\n  {literal}\n}}\n"
    found = state_needs(source)
    assert found.count("\n") == source.count("\n")
    module = scan_module("a.rego", source)
    assert isinstance(module, Module)
    codes = {problem.code for problem in check_modules([module])}
    assert (written is None) == ("rego.negation" in codes)
    wanted = source if written is None else source.replace(literal, written)
    assert wanted == found.replace("meshwarden_needed_", "N")


def test_bodies_without_braces_get_some() -> None:
    """A body of one literal becomes one of several, up to its `else` or its end."""
    source = "package a\nr := 1 if not f(input.x) else := 2 if not f(input.y)\nf(x) if x\n"
    written = (
        "package a\nr := 1 if { N0 := input.x; not f(N0) } "
        "else := 2 if { N1 := input.y; not f(N1) }\nf(x) if x\n"
    )
    assert written == state_needs(source).replace("meshwarden_needed_", "N")


@pytest.mark.parametrize(
    ("clause", "written"),
    [
        ("r if { x := 1; [x | x := 2] != x }", "r if { x := 1; [I0x | I0x := 2] != x }"),
        ("r := {x | some x in [1]}", "r := {x | some x in [1]}"),
        ("f(x) := [x | some x in [1]]", "f(x) := [I0x | some I0x in [1]]"),
        (
            "r if { some x in y; z := {a.x: x | x := b.x} }",
            "r if { some x in y; z := {a.x: I0x | I0x := b.x} }",
        ),
        (
            "r if { every x in y { count({x | some x in z}) == x } }",
            "r if { every x in y { count({I0x | some I0x in z}) == x } }",
        ),
        (
            "r if { x := 1; y := [[x | x := 3] | x := 2]; x == 1 }",
            "r if { x := 1; y := [[I1x | I1x := 3] | I0x := 2]; x == 1 }",
        ),
        ("r if { x := 1 } else := x if { x := 2 }", "r if { x := 1 } else := x if { x := 2 }"),
        ("r if { x = 1; y := [x | x := 2] }", "r if { x = 1; y := [I0x | I0x := 2] }"),
        (
            "r if { x := 1; y := [x | [x, _] := z; x.x] }",
            "r if { x := 1; y := [I0x | [I0x, _] := z; I0x.x] }",
        ),
        (
            "r if { x := 1; y := [x | some {k: x} in z] }",
            "r if { x := 1; y := [I0x | some {k: I0x} in z] }",
        ),
        (
            "r if { some x\ninput.l[x]; y := [x | some x\ninput.m[x]] }",
            "r if { some x\ninput.l[x]; y := [I0x | some I0x\ninput.m[I0x]] }",
        ),
    ],
)
def test_hidden_names_are_parted(clause: str, written: str) -> None:
    """A variable that hides another of its clause has a name of its own."""
    assert written == part_names(f"package a\n{clause}")[10:].replace("meshwarden_inner_", "I")


@pytest.mark.parametrize(
    "body",
    [
        "x = 1; y := [x | x := input.q]; y; not x == 1",
        "x = 1; y := [x | some x in [input.q]]; x == 9; y",
        "x := 1; y := [x | [x, _] := [input.q, 8]]; not y[0]",
        "x := 1; y := [x | some [x, _] in [[input.q, 8]]]; not y[0]",
        'x := 1; y := [x | some {"a": x} in [{"a": input.q}]]; not y[0]',
    ],
)
def test_inner_names_touch_no_outer_ones(body: str) -> None:
    """However a name got its value, one that hides it leaves it alone: nobody passes by it."""
    engine = EmbeddedEngine(
        [("a.rego", f"package a\nr if {{ {body} }}\n")], "a/r", {}, workers=1, in_process=False
    )
    try:
        with pytest.raises(EngineError, match="undefined"):
            engine.evaluate({"q": 9})
    finally:
        engine.close()


def parts() -> Iterator[str]:
    """Yield pieces of sources, some of them broken."""
    yield from ["not ", "x", "f(", ")", "[", "]", "{", "}", "|", ";", "\n", " := ", " if ", "some "]
    yield from [" in ", "else", "every ", "input.x", '"not"', "`", "#", ",", ".", "==", "1", "r"]


@given(st.lists(st.sampled_from(list(parts())), max_size=30))
def test_any_source_is_written_or_refused(pieces: list[str]) -> None:
    """No source breaks the writers, and none loses a line."""
    source = "package a\n" + "".join(pieces)
    module = scan_module("a.rego", source)
    if isinstance(module, Module):
        check_modules([module])
        written = part_names(state_needs(source))
        assert written.count("\n") == source.count("\n")
