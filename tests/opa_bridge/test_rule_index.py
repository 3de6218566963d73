"""A rule of which only the clauses that can match are asked answers as the whole rule does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.errors import EngineError
from opa_bridge.rego_library import LoadedPolicy, compile_bundle
from opa_bridge.rule_index import RuleIndex, index_rule

HEAD = "package a\ndefault r := false\n"


def table(body: str, count: int = 10, head: str = HEAD) -> str:
    """Return a module of clauses that differ in a number."""
    return head + "".join(body.replace("#", str(n)) + "\n" for n in range(count))


def indexed(*sources: str) -> RuleIndex | None:
    """Return the index of `a/r`."""
    return index_rule([(f"{n}.rego", source) for n, source in enumerate(sources)], "a/r")


@pytest.mark.parametrize(
    ("body", "way"),
    [
        ('r if input.p == "#"', ("p",)),
        ('r if "#" == input.p', ("p",)),
        ('r if {\n    input.p == "#"\n}', ("p",)),
        ('r if { input.m == "GET"; input.p == "#" }', ("p",)),
        ('r if {\n    input.q\n    input.p.q["x-y"][2] == "#"\n    true\n}', ("p", "q", "x-y", 2)),
        ('r := {"allowed": true, "n": #} if {\n    input.p = `#`\n}', ("p",)),
        ('r if {\n    not input.q\n    some x in [1]\n    x == 1\n    input.p == "#"\n}', ("p",)),
    ],
)
def test_tables_are_found(body: str, way: tuple[str | int, ...]) -> None:
    """Equalities that stand alone in clauses make an index by what they are about."""
    found = indexed(table(body))
    assert found is not None
    assert found.way == way
    assert found.choose({"p": "no such text"}) == 1
    # What the library may spell otherwise is asked of the whole rule.
    document: Any = "a\\b"
    for step in reversed(found.way):
        document = {step: document} if isinstance(step, str) else [None] * step + [document]
    assert found.choose(document) == 0


def test_imported_names_are_followed() -> None:
    """A name that an import gives is the way that it stands for."""
    head = "package a\nimport input.attributes.request.http as h\nimport input.q\n"
    found = indexed(table('r if {\n    h.path == "#"\n    q\n}', head=head))
    assert found is not None
    assert found.way == ("attributes", "request", "http", "path")


@pytest.mark.parametrize(
    "body",
    [
        'r if not input.p == "#"',
        'r if {\n    not\n    input.p == "#"\n}',
        'r if {\n    x :=\n    input.p == "#"\n    x\n}',
        'r if {\n    x := input.p == "#"\n    not x\n}',
        'r if input.p == "#" with input.p as "1"',
        'r if {\n    input.p == "#"\n    with input.p as "1"\n}',
        'r if {\n    input.p == "#" \n    == false\n}',
        'r if {\n    every x in [1] {\n        input.p == "#"\n    }\n}',
        'r if count([1 | input.p == "#"]) == 0',
        'r if {1 | input.p == "#"} == set()',
        'r if {1 | input.q; input.p == "#"}',
        'r if {"a": 1 |\n    input.q\n    input.p == "#"\n}',
        'r if {\n    input.p\n    ["a"] == "#"\n}',
        'r if {\n    some i\n    input.p[i] == "#"\n}',
        "r if input.p == #",
        'r if input.p != "#"',
        'r if input.p == "é#"',
        'r if input.p == "\\n#"',
        "r if input.p == `\\n#`",
        'r if other.p == "#"',
        'r contains "#" if input.p == "#"',
        'r[x] if { input.p == "#"; x := 1 }',
        'r.x# if input.p == "#"',
        'r if input.p == "#"\nelse := 1 if input.q',
        'r if input.p == "#"; s := 1',
        'r(x) if input.p == "#"',
        'r if input.p == "#"\nall# := data.a',
        'r if input.p == "#"\nall# := data[input.q]',
        'r if input.p == "#"\nall# := data.a["r"]',
        'r if input.p == "#"\nmeshwarden_clauses_# := 1',
    ],
)
def test_what_is_not_sure_is_not_indexed(body: str) -> None:
    """Where an equality may be anything but a condition of its clause, the whole rule is asked."""
    assert indexed(table(body)) is None


def test_names_that_are_given_twice() -> None:
    """An imported name that something else bears as well is not followed."""
    for clause in ("h := 1", "some h in [1]", "f(h) := 1", "h.path := 1"):
        head = f"package a\nimport input.http as h\n{clause}\n"
        assert indexed(table('r if h.path == "#"', head=head)) is None
    assert indexed(table('r if input.p == "#"', head="package a\nimport data.x as input\n")) is None


def test_rules_are_spread_over_sets() -> None:
    """A large table is parted, without its clauses where nothing else names the rule."""
    found = indexed(table('r if input.p == "#"', 100))
    assert found is not None
    assert [len(each.entrypoints) for each in found.sets] == [1, *[8] * 12, 5]
    sources = [each.modules[0][1] for each in found.sets]
    assert [source.count("input.p") for source in sources] == [100, 7, *[8] * 11, 5]
    # What is wrong elsewhere keeps its line.
    assert sources[1].index("meshwarden") > len(sources[1]) - 8 * 100
    for more in ("s if not r", "s := data.a.r", "s := input.r"):
        named = indexed(table('r if input.p == "#"', 100) + more + "\n")
        assert named is not None
        assert [len(each.entrypoints) for each in named.sets] == [1, 101]
    large = index_rule([("a.rego", table('r if input.p == "#"', 100))], "a/r", 10**6)
    assert large is not None
    assert [len(each.entrypoints) for each in large.sets] == [1, 101]


def test_small_and_scattered_rules_are_left() -> None:
    """Few clauses, clauses in two modules, and other packages' rules are asked as they are."""
    body = 'r if input.p == "#"'
    assert indexed(table(body, 7)) is None
    assert indexed(table(body), table(body, head="package a\n")) is None
    assert indexed(table(body, head="package b\n")) is None
    assert indexed(table(body), table(body, head="package b\n")) is not None


def outcome(policy: LoadedPolicy, entry: int, document: dict[str, Any]) -> Any:
    """Return value or error."""
    try:
        return policy.evaluate(document, entry)
    except EngineError as exc:
        return str(exc)


TEXTS = ["GET", "a", "b", "c/d", "", "\\n", '\\"x']
CONDITIONS = [
    'input.m == "{}"',
    '"{}" == input.p[1]',
    'input.p[1] = "{}"',
    'not input.m == "{}"',
    'some x in input.p\n    x == "{}"',
    'x := input.m\n    x == "{}"',
    'startswith(input.m, "{}")',
    'h.q == "{}"',
    "input.flag",
    'input.m == "{}" with input.m as "a"',
]
clauses = st.tuples(
    st.sampled_from(["r", "r := 1", 'r := {"x": true}']),
    st.lists(st.tuples(st.sampled_from(CONDITIONS), st.sampled_from(TEXTS)), max_size=3),
)
inputs = st.fixed_dictionaries(
    {},
    optional={
        "m": st.sampled_from([*TEXTS, None, 1, ["a"], "\ud800", "\n", '"x']),
        "p": st.lists(st.sampled_from(TEXTS), max_size=3) | st.just({"1": "a"}),
        "h": st.fixed_dictionaries({"q": st.sampled_from(TEXTS)}),
        "flag": st.booleans(),
    },
)


@given(
    st.lists(clauses, min_size=8, max_size=14),
    st.booleans(),
    st.booleans(),
    st.lists(inputs, min_size=6, max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_index_answers_as_the_whole_rule(
    written: list[tuple[str, list[tuple[str, str]]]],
    has_default: bool,
    is_named: bool,
    asked: list[dict[str, Any]],
) -> None:
    """Whatever the clauses and the input, value and error are those of the whole rule."""
    lines = ["package a", "import input.h", "default r := false" if has_default else ""]
    lines += ["other if not r"] if is_named else []
    for head, conditions in written:
        body = [condition.format(text) for condition, text in conditions] or ["true"]
        lines.append("\n    ".join([f"{head} if {{", *body]) + "\n}")
    found = indexed("\n".join(lines))
    if found is None:
        return
    places: list[tuple[LoadedPolicy, int]] = []
    for each in found.sets:
        binary = compile_bundle(each.modules, each.entrypoints, "{}")
        policy = LoadedPolicy(binary, each.entrypoints, "a/r")
        places += [(policy, entry) for entry in range(len(each.entrypoints))]
    for document in asked:
        whole = outcome(*places[0], document)
        assert outcome(*places[found.choose(document)], document) == whole, json.dumps(document)


def test_rule_without_index_is_asked_whole() -> None:
    """The engine asks a small rule as it is."""
    engine = EmbeddedEngine([("a.rego", HEAD + "r if input.p\n")], "a/r", {}, workers=1)
    assert [engine.evaluate({"p": True}), engine.evaluate({})] == [True, False]
    engine.close()


def test_engine_takes_the_index() -> None:
    """The engine asks few clauses for a request, all where it must, and tells of the whole rule."""
    body = 'r := "#" if {\n    input.m\n    input.p == "#"\n}'
    engine = EmbeddedEngine([("a.rego", table(body, 100, "package a\n"))], "a/r", {}, workers=1)
    assert engine._index.places
    for n in (0, 57, 99):
        assert engine.evaluate({"m": 1, "p": str(n)}) == str(n)
    for other in ({"m": 1, "p": "100"}, {"m": 1}, {"p": "1"}, {"m": 1, "p": "é"}):
        with pytest.raises(EngineError, match="`a/r` is undefined"):
            engine.evaluate(other)
    engine.close()
