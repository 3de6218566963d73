"""The embedded engine: in process what can be, else regopy in worker processes, within a budget."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opa_bridge.compiled_memory import CompiledMemory
from opa_bridge.direct.policy import DirectPolicy, HandOver
from opa_bridge.direct.syntax import Outside
from opa_bridge.engine import EngineStats
from opa_bridge.errors import EngineError, EngineInputError, EngineTimeout
from opa_bridge.needed_input import NeededInput
from opa_bridge.result_memory import ResultMemory
from opa_bridge.rule_index import index_rule, no_index
from opa_bridge.worker_pool import WorkerPool, default_size
from policies.diagnostic import LoadError

# BUDGET: one evaluation where nobody is waiting; a server sets less.
BUDGET_SECONDS: Final = 2.0


class EmbeddedEngine:
    """Evaluates one entrypoint of a set of modules; implements `Engine`."""

    def __init__(  # noqa: PLR0913 - one option each for those who load, test and measure
        self,
        modules: Sequence[tuple[str, str]],
        entrypoint: str,
        data: Mapping[str, Any],
        *,
        budget_seconds: float = BUDGET_SECONDS,
        workers: int | None = None,
        compiled: CompiledMemory | None = None,
        in_process: bool = True,
    ) -> None:
        """Compile `modules` (file name, source) and start the workers.

        `compiled` may have the modules already, from an engine with other data. Without
        `in_process` the workers are asked about everything.

        Raises:
            LoadError: a module does not parse or does not compile.
        """
        self.budget_seconds = budget_seconds
        self._needed = NeededInput.of_sources([source for _, source in modules])
        text = json.dumps(data, ensure_ascii=False, allow_nan=False)
        self._memory = ResultMemory()
        size = workers or default_size()
        index = index_rule(modules, entrypoint, len(text))
        self._index = index or no_index(modules, entrypoint)
        try:
            self._pool = WorkerPool(self._index.sets, text, size, compiled)
        except LoadError:
            if index is None:
                raise
            # What is wrong is told of the modules as they were written.
            self._index = no_index(modules, entrypoint)
            self._pool = WorkerPool(self._index.sets, text, size)
        self._lock = threading.Lock()
        self._answered = self._handed_over = 0
        self._direct: DirectPolicy | None = None
        self.outside = "not asked for"
        """Why the entrypoint is not evaluated in process; empty where it is."""
        if in_process:
            self._try_direct(modules, entrypoint, json.loads(text))

    def _try_direct(
        self, modules: Sequence[tuple[str, str]], entrypoint: str, data: Mapping[str, Any]
    ) -> None:
        try:
            self._direct = DirectPolicy(modules, entrypoint, data)
            self.outside = ""
        except Outside as exc:
            self.outside = f"{exc.place}: {exc.why}" if exc.place else exc.why

    def evaluate(self, document: Mapping[str, Any], seconds: float | None = None) -> Any:
        """Return the entrypoint's value for an input document.

        `seconds` is what is left of the caller's time; the engine's own budget holds too.

        Raises:
            EngineError: undefined, conflicting, unreadable or stopped; the caller denies.
        """
        limit = self.budget_seconds if seconds is None else min(seconds, self.budget_seconds)
        needed = self._needed.pruned(document)
        if self._direct is None:
            return self._asked(document, needed, limit)
        deadline = time.monotonic() + limit
        try:
            result = self._direct.evaluate(needed)
            with self._lock:
                self._answered += 1
            return result
        except HandOver:
            with self._lock:
                self._handed_over += 1
        left = deadline - time.monotonic()
        if left <= 0:
            raise EngineTimeout(f"stopped: no verdict within {limit * 1000:.0f} ms")
        return self._asked(document, needed, left)

    def _asked(self, document: Mapping[str, Any], needed: Mapping[str, Any], seconds: float) -> Any:
        """Return what a worker answers, or answered before."""
        asked = _json(needed)
        result = self._memory.find(asked)
        if result is None:
            result = self._pool.ask(asked, seconds, self._index.choose(document))
            try:
                value = json.loads(result)
            except ValueError as exc:
                raise EngineError("the Rego engine gave an answer that cannot be read") from exc
            self._memory.keep(asked, result)
            return value
        return json.loads(result)

    def stats(self) -> EngineStats:
        """Return what was counted so far."""
        return EngineStats(
            workers_replaced=self._pool.replaced,
            remembered_hits=self._memory.hits,
            remembered=len(self._memory),
            in_process=self._answered,
            handed_over=self._handed_over,
            where="worker" if self._direct is None else "process",
            why=self.outside,
        )

    def close(self) -> None:
        """End the workers now; otherwise they end with the last reference."""
        self._pool.close()


def _json(document: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(document, default=_plain, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as exc:
        raise EngineInputError(f"the input is no JSON document: {exc}") from exc


def _plain(value: Any) -> Any:
    """Return a mapping of another type as a dict."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON value")
