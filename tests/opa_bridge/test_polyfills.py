"""Generated calls of every polyfill, on the embedded engine's library and on a real OPA.

What OPA leaves undefined must be undefined here too. Where a polyfill ends the evaluation
the call counts as stopped, not as agreeing; it never answers otherwise.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from opa_process import MISSING, opa_binary
from polyfill_calls import OTHERS, REQUIRED, Arguments

from opa_bridge.builtin_table import BUILTINS, Kind
from opa_bridge.capabilities import Module, scan_module
from opa_bridge.polyfills import supply_polyfills

AGREEING = 2000
STOPPED: Final = "stopped"
UNDEFINED: Final = "undefined"
# Asks the library in a process of its own, as the worker does: it may abort.
_ASK = """
import json, sys
from opa_bridge.errors import EngineError
from opa_bridge.rego_library import LoadedPolicy, compile_bundle
from opa_bridge.worker import limit_process
limit_process()
asked = json.load(sys.stdin)
modules = [tuple(module) for module in asked["modules"]]
policy = LoadedPolicy(compile_bundle(modules, ["t/r"], "{}"), ["t/r"])
found = []
for calls in asked["batches"]:
    try:
        found.append(policy.evaluate({"calls": calls}))
    except EngineError:
        found.append(None)
json.dump(found, sys.stdout)
"""


def source_of(name: str, count: int) -> str:
    """Return a module that answers every call of a batch; an undefined one is left out."""
    arguments = ", ".join(f"call[{index}]" for index in range(count))
    body = f"call := input.calls[i]; answer := {name}({arguments})"
    return f"package t\nr := [[i, answer] | {body}]\n"


def embedded_answers(name: str, calls: list[Arguments]) -> list[Any]:
    """Return an answer for each call; a batch that stops is asked again call by call."""
    module = scan_module("t.rego", source_of(name, len(calls[0])))
    assert isinstance(module, Module)
    modules = supply_polyfills([module])
    assert len(modules) > 1, "no polyfill was added"
    batches = [calls[at : at + 50] for at in range(0, len(calls), 50)]
    found = _ask(modules, batches)
    stopping = [batch for batch, seen in zip(batches, found, strict=True) if seen is None]
    singles = iter(_ask(modules, [[call] for batch in stopping for call in batch]))
    answers: list[Any] = []
    for batch, seen in zip(batches, found, strict=True):
        if seen is not None:
            answers += _in_order(seen, len(batch))
            continue
        for single in (next(singles) for _ in batch):
            answers += [STOPPED] if single is None else _in_order(single, 1)
    return answers


def opa_answers(name: str, calls: list[Arguments], folder: Path) -> list[Any]:
    """Return OPA's answer for each call."""
    (folder / "t.rego").write_text(source_of(name, len(calls[0])), "utf-8")
    (folder / "input.json").write_text(json.dumps({"calls": calls}), "utf-8")
    done = subprocess.run(
        [str(opa_binary()), "eval", "--format=json", "--data", str(folder / "t.rego")]
        + ["--input", str(folder / "input.json"), "data.t.r"],
        capture_output=True,
        check=False,
    )
    report = json.loads(done.stdout)
    assert "errors" not in report, report
    return _in_order(report["result"][0]["expressions"][0]["value"], len(calls))


def _ask(modules: list[tuple[str, str]], batches: list[Any]) -> list[Any]:
    asked = json.dumps({"modules": modules, "batches": batches})
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        input=asked,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def _in_order(pairs: list[Any], count: int) -> list[Any]:
    answers: list[Any] = [UNDEFINED] * count
    for index, answer in pairs:
        answers[index] = answer
    return answers


def test_every_polyfill_has_generated_calls() -> None:
    """No polyfill is left out of the comparison."""
    polyfills = {name for name, found in BUILTINS.items() if found.kind is Kind.POLYFILL}
    assert polyfills == {*REQUIRED, *OTHERS}


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
@pytest.mark.parametrize("name", [*REQUIRED, *OTHERS])
def test_polyfill_agrees_with_opa(name: str, tmp_path: Path) -> None:
    """At least 2,000 calls are answered as OPA answers them, none otherwise."""
    rng = random.Random(f"meshwarden {name}")
    make = {**REQUIRED, **OTHERS}[name]
    agreed = stopped = undefined = 0
    for _ in range(4):
        calls = [make(rng) for _ in range(2200)]
        ours = embedded_answers(name, calls)
        theirs = opa_answers(name, calls, tmp_path)
        for call, mine, real in zip(calls, ours, theirs, strict=True):
            if mine == STOPPED:
                stopped += 1
                continue
            assert mine == real and (mine is True) == (real is True), call
            agreed += 1
            undefined += real == UNDEFINED
        if agreed >= AGREEING:
            break
    print(f"{name}: {agreed} agree ({undefined} undefined), {stopped} stopped")
    assert agreed >= AGREEING
    assert agreed - undefined >= AGREEING // 4
