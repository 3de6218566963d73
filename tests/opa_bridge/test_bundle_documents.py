"""Data documents of bundles: JSON and YAML are read as OPA reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opa_bridge.bundle_json import Literal, canonical, read_json, read_literal_json
from opa_bridge.bundle_yaml import MAX_YAML_BYTES, read_literal_yaml, read_yaml
from opa_bridge.errors import PolicyBundleError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda below: st.lists(below) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=12,
)

# What OPA 1.22 takes each of these for (`opa eval` on the file).
SCALARS: dict[str, Any] = {
    "on": "on", "yes": "yes", "y": "y", "True": True, "FALSE": False, "tRue": "tRue",
    "~": None, "Null": None, "nUll": "nUll", "": None,
    "1:30": "1:30", "2020-01-01": "2020-01-01", "2020-01-01T00:00:00Z": "2020-01-01T00:00:00Z",
    "0777": 511, "0o17": 15, "0x1F": 31, "0b11": 3, "-0x1f": -31, "1_000": 1000, "08": 8,
    "+1": 1, "-7": -7, ".5": 0.5, "1.": 1, "1e3": 1000, "-1.5e-9": -1.5e-9, "1e": "1e",
    "18446744073709551615": 18446744073709551615, "9223372036854775808": 9223372036854775808,
    "1e400": "1e400", "0x": "0x", "1.2.3": "1.2.3", "._5": "._5", "_1": "_1", "+": "+",
    "'1'": "1", '"true"': "true", "!!str 1": "1", "! 1": "1",
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), SCALARS.items())
def test_scalars_of_yaml_are_those_of_opa(text: str, value: Any) -> None:
    """A scalar means what OPA takes it for, not what YAML 1.1 would make of it."""
    found = read_yaml(f"a: {text}".encode(), "data.yaml")["a"]

    assert value == found
    assert type(value) is type(found) or isinstance(found, int | float)


def test_anchors_and_merges_are_followed() -> None:
    """A mapping's own keys win over merged ones, and the first merged over the next."""
    text = b"""
a: &a {x: 1, y: 1}
b: &b {y: 2, z: 2}
c: {<<: [*a, *b], x: 3}
d: [*a, "<<", <<]
"""
    expected = {"x": 3, "y": 1, "z": 2}

    assert expected == read_yaml(text, "data.yaml")["c"]
    assert [{"x": 1, "y": 1}, "<<", "<<"] == read_yaml(text, "data.yaml")["d"]


@given(JSON)
def test_json_is_read_as_yaml_and_the_other_way(value: Any) -> None:
    """A `.yaml` file that holds JSON is that JSON; numbers keep their spelling for the hash."""
    text = json.dumps(value).encode()

    assert value == read_json(text, "data.json") == read_yaml(text, "data.yaml")
    assert read_literal_json(text, "data.json") == read_literal_yaml(text, "data.yaml")


def test_the_canonical_form_is_sorted_and_keeps_numbers() -> None:
    """Keys are sorted by code point, blanks go, numbers stay as they were written."""
    text = '{"b": [1.0, 1e3, -0, 10], "é": null, "Z": "\\u2028\\u0001<&>\\"\\\\/\\b\\f\\n"}'
    found = canonical(read_literal_json(text.encode(), "data.json"))

    expected = '{"Z":"\\u2028\\u0001<&>\\"\\\\/\\b\\f\\n","b":[1.0,1e3,-0,10],"é":null}'
    assert expected == found.decode()
    assert b"[true,1e-7,1e+21,18446744073709552000,-0,0.000001]" == canonical(
        read_literal_yaml(
            b"[true, 1e-7, 1e21, 18446744073709551616, -0.0, 0.000001] # no JSON", "y"
        )
    )
    assert Literal("1.0") == read_literal_json(b"1.0", "x")


BOMB = b"a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n + 1, n + 1, b",".join([b"*a%d" % n] * 10)) for n in range(9)
)
REFUSED = {
    "no JSON": (read_json, b"{", "is no JSON"),
    "not UTF-8": (read_json, b'"\xff"', "not UTF-8 at byte 1"),
    "NaN": (read_json, b"[NaN]", "cannot be read"),
    "infinity by digits": (read_json, b"[1e999]", "not finite"),
    "too many digits": (read_json, b"9" * 5000, "cannot be read"),
    "half a character": (read_json, b'["\\ud800"]', "surrogate"),
    "half a character in a key": (read_json, b'{"\\udfff": 1}', "surrogate"),
    "deep JSON": (read_json, b"[" * 200 + b"]" * 200, "deeper than 128"),
    "very deep JSON": (read_json, b"[" * 200_000, "deeper than 128"),
    "no YAML": (read_yaml, b"a: b: c", "is no YAML"),
    "deep YAML": (read_yaml, b"{" * 100_000, "deeper than 128"),
    "YAML that is its own child": (read_yaml, b"a: &a [*a]", "before it is whole"),
    "a bomb of aliases": (read_yaml, BOMB, "more than 5000000 values"),
    "not finite in YAML": (read_yaml, b"a: -.inf", "no JSON number"),
    "a tag": (read_yaml, b"a: !!python/object:os.system x", "has the tag"),
    "binary": (read_yaml, b"a: !!binary aGk=", "has the tag"),
    "a key that is a list": (read_yaml, b"? [1]\n: 2", "a key that is neither"),
    "two documents": (read_yaml, b"a: 1\n---\nb: 2\n", "more than one document"),
    "large YAML": (read_yaml, b"#" * (MAX_YAML_BYTES + 1), "write it as JSON|larger than"),
}


@pytest.mark.parametrize(("read", "raw", "why"), REFUSED.values(), ids=REFUSED)
def test_what_the_engine_cannot_take_is_refused(read: Any, raw: bytes, why: str) -> None:
    """Documents that are none, too deep, too large or ambiguous are refused by name."""
    with pytest.raises(PolicyBundleError, match=why) as refusal:
        read(raw, "data.x")

    assert "bundle.data" == refusal.value.code


@given(st.text(st.sampled_from("ab: -[]{}&*!|>'\"#,\n<?1"), max_size=60))
def test_any_yaml_is_a_value_or_a_named_error(text: str) -> None:
    """No text ends the process or raises anything else."""
    try:
        json.dumps(read_yaml(text.encode(), "data.yaml"))
        canonical(read_literal_yaml(text.encode(), "data.yaml"))
    except PolicyBundleError as exc:
        assert "bundle.data" == exc.code
