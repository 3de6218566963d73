"""Programs held against real OPA: which of them it compiles, and what it answers."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opa_process import opa_binary
from rego_programs import Program

from opa_bridge.capabilities import Module, scan_module
from opa_bridge.direct.policy import DirectPolicy
from opa_bridge.direct.syntax import Outside
from opa_bridge.direct.values import admit, key_of
from opa_bridge.errors import EngineError, EvaluationError
from opa_bridge.polyfills import supply_polyfills

UNDEFINED, CONFLICT = "undefined", "conflict"


def compiled_by_opa(folder: Path, programs: dict[int, Program]) -> dict[int, Program]:
    """Write programs to a folder; return those that OPA compiles, and leave no others there."""
    programs = dict(programs)
    for program in programs.values():
        for file, source in program.modules:
            (folder / file).write_text(source, "utf-8")
    while True:
        command = [str(opa_binary()), "check", "--max-errors", "0", "--format", "json", str(folder)]
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        if done.returncode == 0:
            return programs
        refused = {
            int(number)
            for number in re.findall(r"/(?:p|lib)(\d+)(?:-more)?\.rego", done.stderr + done.stdout)
        }
        assert refused & set(programs), done.stderr
        for number in refused & set(programs):
            for file, _ in programs.pop(number).modules:
                (folder / file).unlink()


def modules_of(program: Program) -> list[tuple[str, str]]:
    """Return a program's modules as the engine gets them.

    Raises:
        Outside: one of them would not load.
    """
    scanned = [scan_module(file, source) for file, source in program.modules]
    modules = [found for found in scanned if isinstance(found, Module)]
    if len(modules) != len(scanned):
        raise Outside("a module that does not load")
    return supply_polyfills(modules)


def answer_of_opa(connection: http.client.HTTPConnection, path: str, document: Any) -> Any:
    """Return value, UNDEFINED or CONFLICT; None where OPA fails at what it compiled."""
    connection.request("POST", f"/v1/data/{path}", json.dumps({"input": document}))
    response = connection.getresponse()
    told = json.loads(response.read())
    if response.status == http.HTTPStatus.OK:
        return compared(told["result"]) if "result" in told else UNDEFINED
    codes = {error["code"] for error in told["errors"]}
    # "built-in function ... called with operand that requires evaluation": OPA's own mistake.
    return None if codes == {"eval_internal_error"} else CONFLICT


def answer_of_direct(policy: DirectPolicy, document: Mapping[str, Any]) -> Any:
    """Return value, UNDEFINED or CONFLICT; may raise HandOver."""
    try:
        return compared(policy.evaluate(document))
    except EvaluationError:
        return CONFLICT
    except EngineError as exc:
        assert str(exc).endswith("is undefined")
        return UNDEFINED


def compared(value: Any) -> Any:
    """Return a result in a form in which 1 and 1.0 are the same and true and 1 are not."""
    return ("value", key_of(admit(value)))
