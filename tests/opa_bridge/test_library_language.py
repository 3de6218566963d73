"""The whole of Rego that loads is answered by the library as OPA answers it, or not at all."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from library_differential import STOPPED, UNDEFINED, answers_of, compared, library_answers
from opa_process import MISSING, opa_binary, running_opa
from rego_differential import compiled_by_opa
from rego_language import LanguageProgram, data_document
from rego_programs import document, value

from opa_bridge.capabilities import Module, check_modules, scan_module
from opa_bridge.provider import RegoPolicy, provide
from opa_bridge.stated_parts import state_parts
from policies.diagnostic import LoadError

IS_LONG = bool(os.environ.get("MESHWARDEN_LONG"))
SEEDS = range(1, 9) if IS_LONG else range(1)
PROGRAMS, INPUTS = (500, 4) if IS_LONG else (60, 3)
CASES = yaml.safe_load(Path(__file__).with_name("language_cases.yaml").read_text("utf-8"))


def wanted_of(case: Mapping[str, Any]) -> Any:
    """Return what a case wants, as `answers_of` tells it."""
    return ["value", case["value"]] if "value" in case else [case["is"], ""]


@pytest.mark.parametrize("case", CASES, ids=[case["note"] for case in CASES])
def test_library_answers_each_case(case: dict[str, Any]) -> None:
    """What the library is asked it answers as OPA does, stops at, or is never asked."""
    source = f"package p\n{case['rego']}\n"
    found = answers_of([("p.rego", source)], ["p/r"], {}, [case["input"]])
    if "refused" in case:
        assert found.startswith(f"{case['refused']}: ")
        return
    answer = found[0][0][0]
    wanted = wanted_of(case)
    assert answer[0] == wanted[0]
    assert answer[0] != "value" or compared(answer[1]) == compared(wanted[1])


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
def test_cases_are_what_opa_answers(tmp_path: Path) -> None:
    """The cases say of OPA what is so."""
    for case in CASES:
        if "value" not in case and case.get("is") != UNDEFINED:
            continue
        (tmp_path / "p.rego").write_text(f"package p\n{case['rego']}\n", "utf-8")
        (tmp_path / "input.json").write_text(json.dumps(case["input"]), "utf-8")
        command = [str(opa_binary()), "eval", "-d", "p.rego", "-i", "input.json", "data.p.r"]
        done = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
        results = json.loads(done.stdout).get("result", [])
        answers = [["value", each["expressions"][0]["value"]] for each in results]
        assert (answers or [[UNDEFINED, ""]]) == [wanted_of(case)], case["note"]


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_programs(seed: int, tmp_path: Path) -> None:
    """Of what loads, no answer is another than OPA's: neither a value nor undefined."""
    made = {number: LanguageProgram(number, f"{seed}") for number in range(PROGRAMS)}
    data = {"d": data_document(random.Random(f"data {seed}"), value), "z": 1}
    inputs = [document(random.Random(f"{seed} input {each}")) for each in range(INPUTS)]
    programs = compiled_by_opa(tmp_path, made)
    (tmp_path / "data.json").write_text(json.dumps(data), "utf-8")
    told = library_answers(
        {number: each.modules for number, each in programs.items()},
        {number: each.probes for number, each in programs.items()},
        data,
        inputs,
    )
    counts: Counter[str] = Counter()
    with (
        running_opa(str(tmp_path)) as opa,
        closing(http.client.HTTPConnection(urlsplit(opa.tcp).netloc)) as connection,
    ):
        for number, program in programs.items():
            if isinstance(told[number], str):
                counts["not loaded"] += 1
                continue
            for probe, rows in zip(program.probes, told[number], strict=True):
                for asked, answers in zip(inputs, rows, strict=True):
                    real = answer_of_opa(connection, f"p{number}/{probe}", asked)
                    for mine in answers if real else []:
                        hold(mine, real, f"{program.modules[0][1]}\n{probe} {json.dumps(asked)}")
                        counts["stopped" if mine and mine[0] == STOPPED else real[0]] += 1
    print(dict(counts))
    assert counts["value"] > PROGRAMS
    assert counts[UNDEFINED] > PROGRAMS // 2


def hold(mine: Any, real: Any, told: str) -> None:
    """Hold an answer against OPA's; what is not answered at all denies."""
    if mine is None or mine[0] == STOPPED:
        return
    assert mine[0] == real[0], f"{told}\n{mine} {real}"
    assert mine[0] != "value" or compared(mine[1]) == compared(real[1]), f"{told}\n{mine} {real}"


def answer_of_opa(connection: http.client.HTTPConnection, path: str, asked: Any) -> Any:
    """Return value, undefined or stopped; None where OPA fails at what it compiled."""
    try:
        connection.request("POST", f"/v1/data/{path}", json.dumps({"input": asked}))
        response = connection.getresponse()
    except http.client.RemoteDisconnected:
        # It panicked, as at some calls of `json.patch`.
        connection.close()
        return None
    told = json.loads(response.read())
    if response.status == http.HTTPStatus.OK:
        return ["value", told["result"]] if "result" in told else [UNDEFINED, ""]
    is_own = told["errors"][0]["code"] == "eval_internal_error"
    return None if is_own else [STOPPED, ""]


@pytest.mark.parametrize(
    "rest",
    [
        "r if count(input.l[i]) == 1",
        "r := 1 if count(input.l[_]) == 1 else := 2 if {\n\tinput.l[i] != input.m[i] # c\n}",
        'r if {\n\tx := f(\n\t\tinput.l[_],\n\t\t[1 | input.m[_] == input.q[_]],\n\t)["a"]\n}',
        "r if every x in f(input.l[_]) {\n\tg(x[_])\n}\n",
        "r if g(input.l[_]) with input.l as {1, 2}\n\twith input.m as 3",
        "r := {k: v | some k, v in g(input.l[k]); not v[_]}",
    ],
)
def test_no_line_moves(rest: str) -> None:
    """What is stated before a literal stands on its line, and stays Rego."""
    source = f"package p\n{rest}\n"
    written = state_parts(source)
    assert "meshwarden_part_0 := " in written
    assert written.count("\n") == source.count("\n")
    module = scan_module("p.rego", written)
    assert isinstance(module, Module)
    assert not [each for each in check_modules([module]) if each.code == "rego.parse"]


def test_what_needs_no_name_gets_none() -> None:
    """References that stand alone are left where they are."""
    source = "package p\nr if { some x in input.l[i]; y := input.m[x]; input.q[_]; z = y; not x }\n"
    assert state_parts(source) == source


def test_what_stands_in_one_place_twice_is_refused() -> None:
    """A package, or data, at the place of a rule do not load: OPA refuses both."""
    sources = ["package p\nr := data.p.c.x\nc := {}\n", "package p.c\nx := 2\n"]
    modules = [(f"{number}.rego", source) for number, source in enumerate(sources)]
    with pytest.raises(LoadError) as caught:
        provide("x", RegoPolicy(modules=modules, data={}, revision="", place="here"), "p/r")
    assert [each.code for each in caught.value.diagnostics] == ["rego.package"]

    modules = [("0.rego", "package p\nr := false\n")]
    for data in ({"p": {"r": True}}, {"p": True}):
        with pytest.raises(LoadError) as caught:
            provide("x", RegoPolicy(modules=modules, data=data, revision="", place="here"), "p/r")
        assert [each.code for each in caught.value.diagnostics] == ["rego.data"]


def test_half_a_character_in_data_is_a_replaced_one() -> None:
    """Data with half of a surrogate pair are what OPA reads: U+FFFD, and no question mark."""
    (row,) = answers_of([("p.rego", "package p\nr := data.x\n")], ["p/r"], {"x": "a\ud800"}, [{}])
    assert row[0][0] == ["value", "a\ufffd"]
