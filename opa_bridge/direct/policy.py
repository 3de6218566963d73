"""An entrypoint that is evaluated in process, without the library.

Theory of operation. Whether an entrypoint is in the fragment is decided when it is loaded.
An evaluation is a function of the input with a bounded number of steps; where it would need
more, or meets a value that is not compared here exactly as OPA does, it is given up and the
library's worker asked from the beginning. So a policy that runs away is stopped where it
always was, in a process that can be ended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opa_bridge.direct.compile import Compiler
from opa_bridge.direct.parse import parse_module
from opa_bridge.direct.program import Program
from opa_bridge.direct.run import STEPS_MOST, Conflict, OverBudget, Run
from opa_bridge.direct.syntax import Outside, Source
from opa_bridge.direct.values import UNDEFINED, Inexact, admit, plain
from opa_bridge.errors import EngineError, EngineInputError, EvaluationError
from opa_bridge.polyfills import PACKAGE
from opa_bridge.scanner import ScanError


class HandOver(Exception):
    """This input is for the library."""


class DirectPolicy:
    """One entrypoint as a function of the input. Safe from many threads."""

    def __init__(
        self,
        modules: Sequence[tuple[str, str]],
        entrypoint: str,
        data: Mapping[str, Any],
        *,
        steps: int = STEPS_MOST,
    ) -> None:
        """Compile modules (file name, source), which may be respelled for polyfills.

        Raises:
            Outside: something that the entrypoint can reach is not in the fragment.
        """
        compiler = Compiler(Program(_sources(modules), _admitted(data)))
        self._entrypoint = entrypoint
        self._steps = steps
        try:
            self._value: Callable[[Run], Any] = compiler.entrypoint(tuple(entrypoint.split("/")))
        except RecursionError:
            raise Outside("the rules call each other too deep") from None
        self._rules = compiler.count

    def evaluate(self, document: Mapping[str, Any]) -> Any:
        """Return the entrypoint's value, a JSON value, for an input document.

        Raises:
            HandOver: the library has to be asked.
            EngineError: undefined, conflicting or unreadable; the caller denies.
        """
        try:
            run = Run(admit(document), self._rules, self._steps)
            value = self._value(run)
            if value is UNDEFINED:
                raise EngineError(f"`{self._entrypoint}` is undefined")
            run.walk(value)
            return plain(value)
        except Conflict:
            message = f"`{self._entrypoint}` conflicts with itself or fails"
            raise EvaluationError(message) from None
        except (OverBudget, Inexact, RecursionError) as exc:
            raise HandOver from exc


def _sources(modules: Sequence[tuple[str, str]]) -> list[Source]:
    """Return the modules of the policy, without those that fill the library's gaps."""
    found: list[Source] = []
    for file, source in modules:
        if file.startswith(f"{PACKAGE}/"):
            continue
        try:
            found.append(parse_module(file, source))
        except ScanError as exc:
            raise Outside(exc.why).at(file, exc.line) from exc
        except Outside as exc:
            raise exc.at(file, exc.line) from None
    return found


def _admitted(data: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found: dict[str, Any] = admit(data, most=sys.maxsize)
    except (EngineInputError, Inexact, RecursionError):
        raise Outside("the data hold numbers or a nesting that are not for the fragment") from None
    return found
