"""Numbers of an input, and sets of texts, as the embedded library and a real OPA take them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from opa_process import MISSING, opa_binary

from opa_bridge.capabilities import Module, scan_module
from opa_bridge.direct.values import MAX_DEPTH
from opa_bridge.errors import EngineInputError
from opa_bridge.polyfills import supply_polyfills
from opa_bridge.rego_library import LoadedPolicy, compile_bundle

SOURCE = """package t

r := {
	"x": input.x,
	"is_above": [input.x > 0, input.x > 0.3333333],
	"is_tiny": input.x == 0.0000001,
	"less_five": input.x + -5 == -5,
	"joined": concat(",", {text | some text in input.texts}),
	"listed": concat(",", input.texts),
	"rounded": [floor(input.x), ceil(input.x)],
	"texts": input.texts,
}
"""
CASES: dict[str, dict[str, Any]] = {
    "more than six decimals": {"x": 1e-7, "texts": []},
    "a third": {"x": 1 / 3, "texts": ["a"]},
    "a place on the map": {"x": 52.5200066, "texts": ["b", "a"]},
    "a fraction of three hundred places": {"x": 1.5e-300, "texts": []},
    "negative zero": {"x": -0.0, "texts": ["c", "Z", "10", "a"]},
    "above minus one": {"x": -0.5, "texts": ["a"]},
    "above minus one, at length": {"x": -0.1234567, "texts": ["a"]},
    "six decimals": {"x": 0.123456, "texts": ["b", "a"]},
    "a whole double": {"x": 100.0, "texts": []},
    "hostile text beside a long fraction": {
        "x": 1e-7,
        "texts": ['a"],"x":["\\', "\n\0\x7f", "\u2028\U0001f600", "\\u0041", "${x}"],
        'k"ey': {"deep": [None, True, -(2**63), {}]},
    },
}


def policy_of(source: str) -> LoadedPolicy:
    """Return a loaded policy, the polyfills it needs with it."""
    module = scan_module("t.rego", source)
    assert isinstance(module, Module)
    return LoadedPolicy(compile_bundle(supply_polyfills([module]), ["t/r"], "{}"), ["t/r"])


def source_for(document: dict[str, Any]) -> str:
    """Return the module without what the library stops at for this document."""
    is_plain = all(text.isalnum() for text in document["texts"])
    lines = [line for line in SOURCE.splitlines() if is_plain or "joined" not in line]
    return "\n".join([*lines, ""])


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
@pytest.mark.parametrize("name", CASES)
def test_library_answers_as_opa(name: str, tmp_path: Path) -> None:
    """What comes back of an input, and what is compared with it, is what OPA says."""
    document = CASES[name]
    (tmp_path / "t.rego").write_text(source_for(document), "utf-8")
    (tmp_path / "input.json").write_text(json.dumps(document), "utf-8")
    command = [str(opa_binary()), "eval", "-d", "t.rego", "-i", "input.json", "data.t.r"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
    real = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]

    assert policy_of(source_for(document)).evaluate(document) == real


def test_no_digit_of_a_fraction_is_lost() -> None:
    """A fraction that the library's interface would cut reaches the policy whole."""
    policy = policy_of("package t\n\nr := [input.x, input.x > 0, input.x == 0.0000001]\n")

    assert policy.evaluate({"x": 1e-7}) == [1e-7, True, True]
    assert policy.evaluate({"x": 52.5200066}) == [52.5200066, True, False]
    assert policy.evaluate({"x": 0.5}) == [0.5, True, False]


def deep(value: Any, levels: int) -> Any:
    """Return a value in so many lists."""
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "beside",
    [2**63, float("inf"), deep(1, MAX_DEPTH), {1, 2}, {"a": [float("nan")]}],
    ids=["long", "infinite", "deep", "set", "nan"],
)
def test_bounds_hold_beside_a_long_fraction(beside: Any) -> None:
    """What no engine is asked about is refused on the longer way too."""
    policy = policy_of("package t\n\nr := true\n")
    for document in ({"x": 1e-7, "y": beside}, {"y": beside, "x": 1e-7}):
        with pytest.raises(EngineInputError):
            policy.evaluate(document)


def test_half_surrogates_are_replaced_beside_a_long_fraction() -> None:
    """A text that is no Unicode arrives as it does without the fraction."""
    policy = policy_of("package t\n\nr := input.t\n")

    assert policy.evaluate({"t": "a\ud800b", "x": 1e-7}) == policy.evaluate({"t": "a\ud800b"})


def test_a_set_is_joined_in_order() -> None:
    """`concat` takes the members of a set in OPA's order, and stops at what it cannot order."""
    policy = policy_of('package t\n\nr := concat(",", {t | some t in input.texts})\n')

    assert policy.evaluate({"texts": ["b", "Z", "10", "a", "b"]}) == "10,Z,a,b"
    assert policy.evaluate({"texts": []}) == ""
