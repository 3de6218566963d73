"""The process behind a probe: `python -m opa_bridge.probe_worker`, one request on its input.

The request is one JSON document: `modules` (file, source), `data` (a JSON text), `entrypoints`,
`queries` (an entrypoint's place and an input, null for none), and `sign`, which begins every
line of an answer. What evaluations print stands between the answers, on the same output.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from opa_bridge.errors import EngineError
from opa_bridge.rego_library import LoadedPolicy, compile_with_data
from opa_bridge.worker import limit_process
from policies.diagnostic import LoadError


def main() -> None:
    """Answer the request: a first line for the load, then one for each query."""
    request = json.load(sys.stdin)
    sign = request["sign"]
    try:
        binary = compile_with_data(
            [(file, source) for file, source in request["modules"]],
            request["entrypoints"],
            request["data"],
        )
        limit_process()
        policy = LoadedPolicy(binary, request["entrypoints"])
    except LoadError as exc:
        found = [
            [each.code, each.message, each.location.file, each.location.line]
            for each in exc.diagnostics
        ]
        _say(sign, {"findings": found})
        return
    _say(sign, {})
    for entry, document in request["queries"]:
        _say(sign, _answer(policy, entry, document))


def _answer(policy: LoadedPolicy, entry: int, document: Any) -> dict[str, Any]:
    try:
        return {"value": policy.evaluate({} if document is None else document, entry)}
    except EngineError as exc:
        return {"error": str(exc)}
    except RecursionError:
        return {"error": "the result is nested too deep"}


def _say(sign: str, answer: dict[str, Any]) -> None:
    # The library's own lines go out at once, so that these stay behind them.
    print(f"{sign} {json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
