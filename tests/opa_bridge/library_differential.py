"""Programs asked of the embedded engine's library, in processes that it may end.

`python tests/opa_bridge/library_differential.py` reads programs from its standard input and
writes one line for each: why it does not load, or its answers.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opa_bridge.capabilities import Module, check_modules, scan_module
from opa_bridge.direct.policy import DirectPolicy, HandOver
from opa_bridge.direct.syntax import Outside
from opa_bridge.errors import EngineError, EngineInputError, EvaluationError
from opa_bridge.polyfills import supply_polyfills
from opa_bridge.rego_library import LoadedPolicy, compile_bundle
from opa_bridge.worker import limit_process
from policies.diagnostic import Diagnostic, LoadError, Severity

UNDEFINED, STOPPED, CRASHED = "undefined", "stopped", "crashed"
_HOME = Path(__file__).resolve().parents[2]
# BUDGET: one program with all its inputs.
_SECONDS = 20


def library_answers(
    programs: Mapping[int, Sequence[tuple[str, str]]],
    probes: Mapping[int, Sequence[str]],
    data: Any,
    inputs: Sequence[Any],
) -> dict[int, Any]:
    """Return, for each program, why it does not load or its answers by probe and input."""
    left = sorted(programs)
    found: dict[int, Any] = {}
    while left:
        asked = {
            "data": data,
            "inputs": inputs,
            "programs": [[number, programs[number], probes[number]] for number in left],
        }
        for number, answers in _told(asked):
            found[number] = answers
        left = [number for number in left if number not in found]
        if left:
            # What it did not survive is the first that it did not answer.
            found[left.pop(0)] = CRASHED
    return found


def _told(asked: Any) -> Iterator[tuple[int, Any]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        cwd=_HOME,
        env={"PYTHONPATH": str(_HOME), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    for line in done.stdout.splitlines():
        if line.startswith("["):
            number, answers = json.loads(line)
            yield number, answers


def compared(value: Any) -> Any:
    """Return an answer in a form in which 1 and 1.0 are one and true and 1 are not.

    The order of an array does not count: that of a set that it was made of is the library's own.
    """
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, (int, float)):
        return ("number", float(value))
    if isinstance(value, list):
        return ("array", *sorted(map(compared, value), key=repr))
    if isinstance(value, dict):
        return ("object", *((key, compared(value[key])) for key in sorted(value)))
    return value


def _loaded(modules: Sequence[tuple[str, str]]) -> list[tuple[str, str]] | str:
    """Return the modules as the library gets them, or why they do not load."""
    scanned = [scan_module(file, source) for file, source in modules]
    good = [each for each in scanned if isinstance(each, Module)]
    problems = [each for each in scanned if isinstance(each, Diagnostic)]
    problems += check_modules(good)
    errors = [each for each in problems if each.severity is Severity.ERROR]
    return f"{errors[0].code}: {errors[0].message}" if errors else supply_polyfills(good)


def answers_of(
    modules: Sequence[tuple[str, str]], paths: Sequence[str], data: Any, inputs: Sequence[Any]
) -> Any:
    """Return why modules do not load, or for each path and input what comes of it.

    That is the library's answer and that of the evaluation in process, None where there is none.
    """
    loaded = _loaded(modules)
    if isinstance(loaded, str):
        return loaded
    try:
        policy = LoadedPolicy(compile_bundle(loaded, paths, json.dumps(data)), paths)
    except LoadError as exc:
        return f"{exc.diagnostics[0].code}: {exc.diagnostics[0].message}"
    except EngineError as exc:
        return f"load: {exc}"
    found = []
    for entry, path in enumerate(paths):
        direct = _direct(loaded, path, data)
        found.append(
            [[_asked(policy, each, entry), _direct_answer(direct, each)] for each in inputs]
        )
    return found


def _direct(modules: list[tuple[str, str]], path: str, data: Any) -> DirectPolicy | None:
    try:
        return DirectPolicy(modules, path, data)
    except Outside:
        return None


def _asked(policy: LoadedPolicy, document: Any, entry: int) -> Any:
    try:
        return ["value", policy.evaluate(document, entry)]
    except (EngineInputError, EvaluationError) as exc:
        return [STOPPED, str(exc)]
    except EngineError as exc:
        return [UNDEFINED if str(exc).endswith("is undefined") else STOPPED, str(exc)]


def _direct_answer(policy: DirectPolicy | None, document: Any) -> Any:
    if policy is None:
        return None
    try:
        return ["value", policy.evaluate(document)]
    except (HandOver, EngineInputError):
        return None
    except EvaluationError as exc:
        return [STOPPED, str(exc)]
    except EngineError:
        return [UNDEFINED, ""]


def main() -> None:
    """Answer what stands on the standard input."""
    asked = json.load(sys.stdin)
    limit_process()
    for number, modules, probes in asked["programs"]:
        written = [(file, source) for file, source in modules]
        signal.alarm(_SECONDS)
        paths = [f"p{number}/{probe}" for probe in probes]
        answers = answers_of(written, paths, asked["data"], asked["inputs"])
        sys.stdout.write(json.dumps([number, answers]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
