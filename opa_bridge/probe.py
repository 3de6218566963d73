"""Rego asked with an ear on what it prints: for coverage and for Rego unit tests, never to serve.

One process answers one list of queries; one that ends it, or takes too long, is told as an
error, and another process goes on behind it.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from policies.diagnostic import Diagnostic, LoadError, Location

# BUDGET: one evaluation; nobody waits for it but who wrote it.
QUERY_SECONDS: Final = 10.0
# BUDGET: compiling marked modules takes several times what serving them does.
_START_SECONDS: Final = 120.0
_HOME: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a query: a value, or why there is none. `printed` are the lines it printed."""

    value: Any = None
    error: str = ""
    seconds: float = 0.0
    printed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Modules (file, source) with their data, and the entrypoints that may be asked."""

    modules: tuple[tuple[str, str], ...]
    data: Mapping[str, Any]
    entrypoints: tuple[str, ...]
    query_seconds: float = QUERY_SECONDS

    def ask(self, queries: Sequence[tuple[int, Any]]) -> Iterator[Answer]:
        """Yield the answer to each query: an entrypoint's place, and an input or None.

        Raises:
            LoadError: the modules do not compile.
        """
        done = 0
        while done < len(queries):
            for answer in self._asked(queries[done:]):
                done += 1
                yield answer

    def _asked(self, queries: Sequence[tuple[int, Any]]) -> Iterator[Answer]:
        """Yield answers of one process, up to the first query that it does not survive."""
        sign = secrets.token_hex(16)
        request = {
            "modules": self.modules,
            "data": json.dumps(self.data),
            "entrypoints": self.entrypoints,
            "queries": queries,
            "sign": sign,
        }
        with _Process(json.dumps(request), sign) as process:
            try:
                started = process.answer(_START_SECONDS)
            except _Stopped as exc:
                message = f"the modules do not compile: {exc}"
                raise LoadError([_found("rego.compile", message, self._first(), 0)]) from exc
            if started.get("findings"):
                raise LoadError([_found(*row) for row in started["findings"]])
            for _ in queries:
                answer = process.next(self.query_seconds)
                yield answer
                if not process.is_alive:
                    return

    def _first(self) -> str:
        return self.modules[0][0] if self.modules else ""


class _Stopped(Exception):
    """There is no answer and none will come; the message says why."""


class _Process:
    """A process that answers one request, line by line."""

    def __init__(self, request: str, sign: str) -> None:
        self._sign = f"{sign} ".encode()
        self._printed: list[str] = []
        self._unread = b""
        self.is_alive = True
        # WHY no environment: nothing of the caller's may reach a policy.
        environment = {"PYTHONPATH": str(_HOME), "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "opa_bridge.probe_worker"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._output: IO[bytes] = self._process.stdout
        with suppress(BrokenPipeError):
            self._process.stdin.write(request.encode())
            self._process.stdin.close()

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    def next(self, seconds: float) -> Answer:
        """Return the answer to the next query; where there is none, this process is at its end."""
        begun = time.monotonic()
        try:
            found = self.answer(seconds)
        except _Stopped as exc:
            self.is_alive = False
            found = {"error": str(exc)}
        lines, self._printed = tuple(self._printed), []
        return Answer(
            value=found.get("value"),
            error=found.get("error", ""),
            seconds=time.monotonic() - begun,
            printed=lines,
        )

    def answer(self, seconds: float) -> dict[str, Any]:
        """Return the next answer as it was written; what was printed before it is kept."""
        deadline = time.monotonic() + seconds
        while True:
            line = self._line(deadline)
            if line.startswith(self._sign):
                found: dict[str, Any] = json.loads(line[len(self._sign) :])
                return found
            self._printed.append(line.decode("utf-8", "replace"))

    def _line(self, deadline: float) -> bytes:
        while b"\n" not in self._unread:
            with selectors.DefaultSelector() as selector:
                selector.register(self._output, selectors.EVENT_READ)
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise _Stopped("stopped: no answer in time")
            # A plain `read` would wait for all of it.
            piece = os.read(self._output.fileno(), 1 << 16)
            if not piece:
                raise _Stopped("the engine did not survive it")
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def _found(code: str, message: str, file: str, line: int) -> Diagnostic:
    return Diagnostic(code=code, message=message, location=Location(file, line))
