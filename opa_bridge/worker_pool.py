"""The authorizer's side of its Rego workers: start, ask within a time, replace.

INVARIANT: a worker that did not answer in time, or at all, is never asked again.

Workers are replaced in threads of their own: a process that hangs takes seconds to tell from
one that is slow, and who asks for a verdict has none to spare.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from opa_bridge.compiled_memory import CompiledMemory
from opa_bridge.errors import EngineError, EngineInputError, EngineTimeout, EvaluationError
from opa_bridge.fair_queue import FairQueue
from opa_bridge.frames import PeerGone, receive_frame, send_frame
from opa_bridge.rego_binary import pack_binaries, unpack_binaries
from opa_bridge.rule_index import ModuleSet
from policies.diagnostic import Diagnostic, LoadError, Location

# BUDGET: compiling the largest policy sets takes seconds; beyond this something is stuck.
_START_SECONDS: Final = 60.0
# BUDGET: a fork takes milliseconds; a nursery that needs more is replaced.
_FORK_SECONDS: Final = 5.0
# BUDGET: it ends in milliseconds; whoever lets go of a policy last waits for it.
_END_SECONDS: Final = 0.5
_AT_ONCE: Final = 2
_FAILURES: Final = {b"I": EngineInputError, b"C": EvaluationError}
_HOME: Final = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class _Worker:
    """A worker's socket and its number in the nursery that forked it."""

    channel: socket.socket
    number: int
    nursery: _Nursery


class _Nursery:
    """One nursery process; see `opa_bridge.worker`. Safe from many threads."""

    def __init__(self) -> None:
        """Start the process.

        Raises:
            EngineError: it cannot be started.
        """
        try:
            self._control, self._process = self._started()
        except OSError as exc:
            raise EngineError(f"no Rego process can be started: {exc}") from exc
        self._lock = threading.Lock()

    @staticmethod
    def _started() -> tuple[socket.socket, subprocess.Popen[bytes]]:
        """Return the control socket and the process at its other end."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "opa_bridge.worker", str(theirs.fileno())]
        # WHY no environment: nothing of the authorizer's may reach a policy.
        environment = {"PYTHONPATH": str(_HOME), "PYTHONDONTWRITEBYTECODE": "1"}
        with theirs:
            process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        return ours, process

    def ask(self, kind: bytes, payload: bytes, seconds: float) -> bytes:
        """Return the payload of the answer.

        Raises:
            LoadError: the modules do not compile.
            EngineError: the process is gone, stuck, or says that it cannot.
        """
        with self._lock:
            return self._ask(kind, payload, seconds)

    def fork(self) -> _Worker:
        """Return a new worker.

        Raises:
            EngineError: there is none to be had.
        """
        try:
            ours, theirs = socket.socketpair()
        except OSError as exc:
            raise EngineError(f"no Rego worker can be started: {exc}") from exc
        with theirs, self._lock:
            try:
                # The socket follows when it is waited for: one that comes with data gets lost.
                self._ask(b"F", b"", _FORK_SECONDS)
                socket.send_fds(self._control, [b"f"], [theirs.fileno()])
                number = int(self._answer(_FORK_SECONDS))
            except (EngineError, OSError) as exc:
                ours.close()
                raise EngineError(f"no Rego worker can be started: {exc}") from exc
        return _Worker(ours, number, self)

    def end(self, worker: _Worker) -> None:
        """End a worker; whatever it was doing stops now."""
        worker.channel.close()
        self.ask(b"K", str(worker.number).encode(), _FORK_SECONDS)

    def close(self) -> None:
        """End the process and, with it, its workers."""
        self._control.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, kind: bytes, payload: bytes, seconds: float) -> bytes:
        try:
            send_frame(self._control, kind, payload, time.monotonic() + seconds)
        except (PeerGone, OSError) as exc:
            raise EngineError(f"the Rego engine ended{self._ending()}") from exc
        return self._answer(seconds)

    def _answer(self, seconds: float) -> bytes:
        try:
            answer, content = receive_frame(self._control, time.monotonic() + seconds)
        except TimeoutError as exc:
            self._process.kill()
            raise EngineError(f"the Rego engine is stuck for {seconds:.0f} s") from exc
        except PeerGone as exc:
            raise EngineError(f"the Rego engine ended{self._ending()}") from exc
        if answer == b"E":
            raise LoadError([_found(*row) for row in json.loads(content)])
        if answer == b"X":
            raise EngineError(content.decode("utf-8", "replace"))
        return content

    def _ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1)
            return f" (signal {-code})" if code < 0 else f" (exit code {code})"
        return ""


class WorkerPool:
    """A few workers with one policy. Safe from many threads; ends with its last reference."""

    def __init__(
        self,
        sets: Sequence[ModuleSet],
        data: str,
        size: int,
        compiled: CompiledMemory | None = None,
    ) -> None:
        """Compile sets of modules with a data document, and start some workers.

        There are `size` at most: the first few at once, the others when all are busy.
        `compiled` may have the sets already.

        Raises:
            LoadError: they do not compile, or the compiler does not survive them.
        """
        self._idle: FairQueue[_Worker | None] = FairQueue()
        self._lock = threading.Lock()
        self.replaced = 0
        """Workers that were ended, or died, and made way for others."""
        # The nursery of the moment, for the finalizer, which must not hold the pool itself.
        self._current: list[_Nursery] = []
        self._finalizer = weakref.finalize(self, _close_all, self._current, self._idle)
        try:
            self._nursery = _Nursery()
            self._current[:] = [self._nursery]
            binary = self._compiled(sets, data, compiled)
            named = json.dumps([each.entrypoints for each in sets])
            self._loaded = named.encode() + b"\0" + binary
            self._nursery.ask(b"L", self._loaded, _START_SECONDS)
            for number in reversed(range(size)):
                # The queue hands out what came last: one that is there before one that could be.
                self._idle.put(self._nursery.fork() if number < _AT_ONCE else None)
        except EngineError as exc:
            self.close()
            file = sets[0].modules[0][0] if sets[0].modules else ""
            message = f"the modules do not compile: {exc}"
            raise LoadError([_found("rego.compile", message, file, 0)]) from exc

    def _compiled(
        self, sets: Sequence[ModuleSet], data: str, compiled: CompiledMemory | None
    ) -> bytes:
        """Return the binaries of the sets, one behind the other."""
        known = None if compiled is None else compiled.find(sets, data)
        if known is not None:
            return pack_binaries(known)
        written = [(each.modules, each.entrypoints) for each in sets]
        request = {"sets": written, "data": data}
        packed = self._nursery.ask(b"C", json.dumps(request).encode(), _START_SECONDS)
        if compiled is not None:
            compiled.keep(sets, data, unpack_binaries(packed))
        return packed

    def ask(self, document: bytes, seconds: float, entry: int = 0) -> bytes:
        """Return the value for an input, both as JSON, at the entrypoint of a place.

        Raises:
            EngineTimeout: no answer within `seconds`; the evaluation was stopped.
            EngineInputError: the input cannot be carried.
            EvaluationError: the evaluation ended without an answer for it.
            EngineError: the policy gives no value, or the worker died of it.
        """
        deadline = time.monotonic() + seconds
        worker = self._take(seconds, deadline)
        is_whole = False
        try:
            kind, payload = _exchange(worker, entry.to_bytes(2) + document, deadline)
            is_whole = True
        except TimeoutError:
            message = f"stopped: no verdict within {seconds * 1000:.0f} ms"
            raise EngineTimeout(message) from None
        except PeerGone:
            raise EngineError("the Rego engine died of this request") from None
        finally:
            # INVARIANT: what was taken is put back, if only as the right to fork another.
            if is_whole:
                self._put(worker)
            else:
                self._renew(worker).add_done_callback(self._put_renewed)
        if kind == b"V":
            return payload
        raise _FAILURES.get(kind, EngineError)(payload.decode("utf-8", "replace"))

    def close(self) -> None:
        """End every worker."""
        self._finalizer()

    def _is_closed(self) -> bool:
        return not self._finalizer.alive

    def _take(self, seconds: float, deadline: float) -> _Worker:
        """Return a worker that is there.

        Raises:
            EngineTimeout: none was free, or could be started, in time.
            EngineError: none can be started.
        """
        try:
            worker = self._idle.take(seconds)
        except TimeoutError:
            raise EngineTimeout(f"no Rego worker was free within {seconds * 1000:.0f} ms") from None
        if worker is not None and not _is_gone(worker):
            return worker
        # One that died before it was asked is not this request's doing.
        renewing = self._renew(worker)
        try:
            return renewing.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            renewing.add_done_callback(self._put_renewed)
            message = f"no Rego worker could be started within {seconds * 1000:.0f} ms"
            raise EngineTimeout(message) from None
        except EngineError:
            self._put(None)
            raise

    def _put(self, worker: _Worker | None) -> None:
        self._idle.put(worker)
        if self._is_closed():
            _close_all([], self._idle)

    def _put_renewed(self, renewed: Future[_Worker]) -> None:
        self._put(None if renewed.exception() else renewed.result())

    def _renew(self, worker: _Worker | None) -> Future[_Worker]:
        """Return what will be another worker, the old one ended first, or an EngineError."""
        renewed: Future[_Worker] = Future()

        def renew() -> None:
            try:
                renewed.set_result(self._replaced(worker))
            except Exception as exc:
                # WHY so wide: what is never told is a worker less, for good.
                renewed.set_exception(EngineError(str(exc)))

        try:
            threading.Thread(target=renew, name="rego-worker", daemon=True).start()
        except RuntimeError as exc:
            renewed.set_exception(EngineError(f"no Rego worker can be started: {exc}"))
        return renewed

    def _replaced(self, worker: _Worker | None) -> _Worker:
        """Return another worker; the one before it is ended.

        Raises:
            EngineError: there is none to be had now.
        """
        if worker is not None:
            with self._lock:
                self.replaced += 1
            with suppress(EngineError):
                worker.nursery.end(worker)
        return self._another()

    def _another(self) -> _Worker:
        """Return a new worker, of a new nursery where the old one is gone."""
        nursery = self._nursery
        try:
            return nursery.fork()
        except EngineError:
            with self._lock:
                if self._is_closed():
                    raise
                if self._nursery is nursery:
                    nursery.close()
                    self._nursery = self._start()
                    self._current[:] = [self._nursery]
                    if self._is_closed():
                        self._nursery.close()
            return self._nursery.fork()

    def _start(self) -> _Nursery:
        """Return a new nursery with the policy loaded."""
        nursery = _Nursery()
        try:
            nursery.ask(b"L", self._loaded, _START_SECONDS)
        except EngineError:
            nursery.close()
            raise
        return nursery


def default_size() -> int:
    """Return how many workers one policy may have: four a core, from eight to sixteen.

    WHY more than cores: each may be held by an evaluation that runs away, and the system
    gives a core to the short ones among the long.
    """
    return max(8, min(16, 4 * (os.cpu_count() or 1)))


def _is_gone(worker: _Worker) -> bool:
    """Whether a worker that was not asked anything has closed its end, or says something."""
    worker.channel.setblocking(False)
    try:
        worker.channel.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _exchange(worker: _Worker, document: bytes, deadline: float) -> tuple[bytes, bytes]:
    send_frame(worker.channel, b"Q", document, deadline)
    return receive_frame(worker.channel, deadline)


def _close_all(nurseries: list[_Nursery], idle: FairQueue[_Worker | None]) -> None:
    for worker in idle.drain():
        if worker is not None:
            worker.channel.close()
    for nursery in nurseries:
        nursery.close()


def _found(code: str, message: str, file: str, line: int) -> Diagnostic:
    return Diagnostic(code=code, message=message, location=Location(file, line))
