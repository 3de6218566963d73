"""Data put into a compiled policy are those that the library would have put there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opa_bridge.rego_binary import UnknownForm, outline_of, with_data
from opa_bridge.rego_library import LoadedPolicy, compile_bundle, compile_with_data

TOP = "import rego.v1\n\ndefault allow := false\n\n"
POLICIES = {
    "a lookup": "package envoy.authz\n" + TOP + "allow if data.users[input.user].admin\n",
    "a path of keys": 'package envoy.authz\n' + TOP + 'allow if data.users.a["b"].c == input.x\n',
    "members": "package envoy.authz\n" + TOP + "allow if some k, v in data.users\n",
    "an import": "package envoy.authz\nimport data.users as known\n" + TOP
    + "allow if known[input.user]\n",
    "all data": "package envoy.authz\n" + TOP + "allow if count(data) > 1\nall := data.users\n",
    "data replaced": "package envoy.authz\n" + TOP
    + 'allow if inner with data.users as {"a": 1}\ninner if data.users.a == 1\n',
    "data beside the package": "package envoy.authz\n" + TOP
    + "allow if data.envoy.table[input.x]\nrest := data.envoy.other\n",
    "data in the package": "package envoy.authz\n" + TOP + "allow if data.envoy.authz.table.a\n",
    "data over the package": "package envoy.authz\n" + TOP + "allow if count(data.envoy) > 1\n",
    "a set": "package envoy.authz\n" + TOP
    + "names contains n if some n in data.users[_]\nallow if names[input.x]\n",
    "a negation": "package envoy.authz\n" + TOP + "allow if not data.users.missing.x\n",
}  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
KEYS = st.sampled_from(["users", "a", "b", "table", "other", 'é"\n']) | TEXT
# The library's own reader takes no exponents and cuts no zeros.
NUMBERS = st.integers(-(2**70), 2**70) | st.decimals(-1000, 1000, places=3).map(float).filter(
    lambda value: "e" not in repr(value)
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3),
    max_leaves=8,
)
DATA = st.fixed_dictionaries(
    {},
    optional={
        "users": VALUES,
        "envoy": st.fixed_dictionaries(
            {},
            optional={
                "table": VALUES,
                "other": VALUES,
                "authz": st.fixed_dictionaries({}, optional={"table": VALUES}),
            },
        ),
        "other": VALUES,
    },
)


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(list(POLICIES)), DATA)
def test_the_binary_is_the_librarys_own_byte_for_byte(name: str, data: dict[str, Any]) -> None:
    """Compiled with an outline and filled, or compiled with the data: no byte differs."""
    modules = [("p.rego", POLICIES[name])]
    text = json.dumps(data, ensure_ascii=False)

    assert compile_with_data(modules, ["envoy/authz/allow"], text) == compile_bundle(
        modules, ["envoy/authz/allow"], text
    )


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_what_goes_in_comes_out(data: dict[str, Any]) -> None:
    """Every text, number and shape in the data is the one that a policy sees."""
    modules = [("p.rego", "package p\n\nimport rego.v1\n\nall := data.users\n")]
    binary = compile_bundle(modules, ["p/all"], json.dumps({"users": data}))

    assert data == LoadedPolicy(binary, ["p/all"]).evaluate({})


def test_numbers_that_the_library_cannot_read_are_written_out() -> None:
    """An exponent in the data is no reason to refuse them."""
    modules = [("p.rego", "package p\n\nimport rego.v1\n\nall := [data.x * 2, data.y]\n")]
    binary = compile_bundle(modules, ["p/all"], '{"x": 1e3, "y": 1.5e-7}')

    assert [2000, 1.5e-7] == LoadedPolicy(binary, ["p/all"]).evaluate({})


def test_values_do_not_change_the_outline() -> None:
    """New values are the same outline; a key at the top or on a package's way is another."""
    packages = [("envoy", "authz")]
    before = outline_of({"users": {"a": 1}, "envoy": {"x": {"y": 1}}}, packages)

    assert before == outline_of({"users": {"b": [2]}, "envoy": {"x": {}}}, packages)
    assert before != outline_of({"users": {}, "envoy": {"x": {}, "y": {}}}, packages)
    assert before != outline_of({"users": {}, "envoy": {"x": {}}, "more": 1}, packages)


@pytest.mark.parametrize("damage", [b"", b"REGOBUND", b"X" * 200])
def test_another_form_is_not_written_to(damage: bytes) -> None:
    """What is not exactly the known form is left to the library."""
    modules = [("p.rego", "package p\n\nimport rego.v1\n\nall := data\n")]
    binary = compile_with_data(modules, ["p/all"], "{}")
    for raw in (damage, binary[:-1], binary[:70] + b"\xff" + binary[71:]):
        with pytest.raises(UnknownForm):
            with_data(raw, {})
