"""What is evaluated in process, case by case; each value is OPA's as well."""

from __future__ import annotations

import json
import subprocess
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml
from opa_process import MISSING, opa_binary

from opa_bridge.direct.policy import DirectPolicy, HandOver
from opa_bridge.direct.syntax import Outside
from opa_bridge.errors import EngineError, EngineInputError, EvaluationError

CASES = yaml.safe_load(Path(__file__).with_name("direct_cases.yaml").read_text("utf-8"))
ANSWERS = [case for case in CASES if "value" in case or "is" in case]


def named(cases: list[dict[str, Any]]) -> list[Any]:
    """Return cases as pytest takes them."""
    return [pytest.param(case, id=case["note"]) for case in cases]


def policy_of(case: dict[str, Any]) -> DirectPolicy:
    """Return the policy of a case."""
    return DirectPolicy([("a.rego", source_of(case))], "a/r", {})


def source_of(case: dict[str, Any]) -> str:
    """Return the module of a case."""
    return f"package a\n{case['rego']}\n"


def input_of(case: dict[str, Any]) -> dict[str, Any]:
    """Return the input of a case, its long lists written out."""
    return {
        key: list(range(2, value["repeat"] + 2))
        if isinstance(value, dict) and "repeat" in value
        else value
        for key, value in case.get("input", {}).items()
    }


@pytest.mark.parametrize("case", named(CASES))
def test_case(case: dict[str, Any]) -> None:
    """An entrypoint is outside the fragment and says why, or is answered as the case says."""
    if "outside" in case:
        with pytest.raises(Outside) as outside:
            policy_of(case)
        assert case["outside"] in outside.value.why
        return
    policy, document = policy_of(case), input_of(case)
    if "value" in case:
        assert json.dumps(case["value"]) == json.dumps(policy.evaluate(document))
        return
    raised = {"undefined": EngineError, "conflict": EvaluationError}
    with pytest.raises(raised[case["is"]] if "is" in case else HandOver) as failed:
        policy.evaluate(document)
    assert isinstance(failed.value, EvaluationError) == (case.get("is") == "conflict")


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
@pytest.mark.parametrize("case", named(ANSWERS))
def test_case_with_opa(case: dict[str, Any], tmp_path: Path) -> None:
    """OPA answers every case as it says."""
    (tmp_path / "a.rego").write_text(source_of(case), "utf-8")
    (tmp_path / "input.json").write_text(json.dumps(input_of(case)), "utf-8")
    command = [str(opa_binary()), "eval", "--format", "json", "--data", str(tmp_path / "a.rego")]
    command += ["--input", str(tmp_path / "input.json"), "data.a.r"]
    told = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)
    if "errors" in told:
        assert case.get("is") == "conflict"
    elif "result" not in told:
        assert case.get("is") == "undefined"
    else:
        assert case["value"] == told["result"][0]["expressions"][0]["value"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (float("inf"), "not finite"),
        (float("-inf"), "not finite"),
        (float("nan"), "not finite"),
        (2**63, "more than 64 bits"),
        (-(2**63) - 1, "more than 64 bits"),
        ({1: 2}, "not a text"),
        (b"x", "no JSON value"),
    ],
)
def test_inputs_that_are_refused(value: Any, why: str) -> None:
    """A value that JSON does not have, or that the engines cut, is the caller's fault."""
    policy = DirectPolicy([("a.rego", "package a\nr := input.x\n")], "a/r", {})
    with pytest.raises(EngineInputError, match=why):
        policy.evaluate({"x": value})
    with pytest.raises(EngineInputError, match=why):
        policy.evaluate({"x": [{"y": value}]})


def nested(depth: int) -> Any:
    """Return a list in a list, so many times."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_bounded() -> None:
    """An input nested deeper than the engines take is refused, however deep it is."""
    policy = DirectPolicy([("a.rego", "package a\nr := input.x == input.x\n")], "a/r", {})
    assert policy.evaluate({"x": nested(120)}) is True
    for depth in (130, 100_000):
        with pytest.raises(EngineInputError, match="nested deeper"):
            policy.evaluate({"x": nested(depth)})


def test_result_is_bounded() -> None:
    """A result that the policy nests deeper than a result may be is no result."""
    policy = DirectPolicy([("a.rego", "package a\nr := [[[[input.x]]]]\n")], "a/r", {})
    with pytest.raises(EngineError, match="nested deeper"):
        policy.evaluate({"x": nested(124)})


class Word(StrEnum):
    """A text of another class, as the parts of an input may be."""

    A = "a"


def test_values_of_other_classes() -> None:
    """A text or number of a class of its own is what it is in JSON."""
    policy = DirectPolicy(
        [("a.rego", 'package a\nr := [h, input.y]\nh := input.x == "a"\n')], "a/r", {}
    )
    assert policy.evaluate({"x": Word.A, "y": HTTPStatus.OK}) == [True, 200]


def test_large_inputs_go_to_the_library() -> None:
    """What would take long to look through is for the worker, whatever the policy asks of it."""
    policy = DirectPolicy([("a.rego", "package a\nr if input.x\n")], "a/r", {})
    for large in ([1] * 20_001, {str(n): n for n in range(20_001)}, [[1] * 200] * 200):
        with pytest.raises(HandOver):
            policy.evaluate({"x": large})


def test_large_data_are_no_hindrance() -> None:
    """Data are admitted once, however large."""
    source = "package a\nr := data.x[input.x]\n"
    assert DirectPolicy([("a.rego", source)], "a/r", {"x": [1] * 100_000}).evaluate({"x": 9}) == 1


def test_halves_of_surrogates_are_one_character() -> None:
    """Half of a surrogate pair is U+FFFD, as Go reads it, in keys as in texts."""
    source = 'package a\nr := [input.x == "\ufffd", input.y["\ufffd"], input.x]\n'
    source = source.replace('input.x == "\ufffd"', "h") + 'h := input.x == "\ufffd"\n'
    policy = DirectPolicy([("a.rego", source)], "a/r", {})
    document = {"x": "\ud800", "y": {"\udfff": 1}}
    assert policy.evaluate(document) == [True, 1, "\ufffd"]


def test_calls_are_bounded() -> None:
    """Rules that call each other in a long row are outside, or go to the library; never a crash."""
    for count in (20, 200, 3000):
        lines = [f"h{n} if h{n + 1}" for n in range(count)]
        source = "\n".join(["package a", "r if h0", *lines, f"h{count} if input.x", ""])
        try:
            policy = DirectPolicy([("a.rego", source)], "a/r", {})
            assert policy.evaluate({"x": 1}) is True
            assert count < 3000  # the longest row
        except (Outside, HandOver):
            assert count > 20  # the shortest


def test_steps_are_counted_alike() -> None:
    """The same input takes the same way each time: the bound is a number of steps, not a time."""
    module = "package a\nr if { some x in input.l; x == 0 }\n"
    policy = DirectPolicy([("a.rego", module)], "a/r", {}, steps=101)
    for _ in range(3):
        with pytest.raises(EngineError, match="undefined"):
            policy.evaluate({"l": [1] * 100})
        with pytest.raises(HandOver):
            policy.evaluate({"l": [1] * 101})


def test_data_are_not_changed() -> None:
    """What a caller does to a result changes neither the data nor the next result."""
    policy = DirectPolicy([("a.rego", "package a\nr := [data.x, [1]]\n")], "a/r", {"x": [1]})
    first = policy.evaluate({})
    first[0].append(2)
    first[1].append(2)
    assert policy.evaluate({}) == [[1], [1]]


@pytest.mark.parametrize(
    ("data", "why"),
    [({"a": {"r": 1}}, "shares its place"), ({"x": 2**70}, "the data"), ({"x": 1e300}, "the data")],
)
def test_data_may_put_a_policy_outside(data: Any, why: str) -> None:
    """Data at a rule's place, and numbers outside the fragment, are left to the library."""
    with pytest.raises(Outside, match=why):
        DirectPolicy([("a.rego", "package a\nr if input.x\n")], "a/r", data)


def test_what_cannot_be_read_leaves_the_rest() -> None:
    """A statement outside the fragment matters to those alone who may mean it."""
    source = "package a\nr if input.x\nother := input.x % 2\nthird if other == 1\n"
    assert DirectPolicy([("a.rego", source)], "a/r", {}).evaluate({"x": 1}) is True
    with pytest.raises(Outside) as outside:
        DirectPolicy([("a.rego", source)], "a/third", {})
    assert outside.value.place == "a.rego:3"
    tests = "package a\nr if input.x\ntest_r if r with input as {}\n"
    assert DirectPolicy([("a.rego", tests)], "a/r", {}).evaluate({"x": 1}) is True


@pytest.mark.parametrize(
    "more",
    [
        "s if input.x % 2 == 1; r if input.y",
        "s if { input.x % 2 == 1 } r if input.y",
        "s if input.x % 2 == 1; default r := 1",
        "default r := input.x % 2",
        "r.x := 1 if input.y",
        "r[x] if { some x in input.y }",
        "r := 1 if { input.x % 2 == 1 }\nelse := 2",
        "import data.x % 2",
    ],
)
def test_no_clause_is_overlooked(more: str) -> None:
    """A statement that is left out puts every rule outside that it may be a clause of."""
    with pytest.raises(Outside):
        DirectPolicy([("a.rego", f"package a\nr if input.x\n{more}\n")], "a/r", {})
