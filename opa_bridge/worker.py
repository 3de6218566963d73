"""The process that Rego runs in: `python -m opa_bridge.worker FD`.

Theory of operation. The library cannot be interrupted and may abort, so it never runs
in the authorizer. One process, the nursery, compiles and loads a policy and then only
waits; each worker is a fork of it, ready at once, sharing its memory until it writes.
The nursery alone ends and reaps workers, so a process number is never taken for another's.
When the authorizer is gone its end of the control socket closes, and everything here ends.

Frames to the nursery: `C` compile (JSON: sets of modules and entrypoints, data), `L` load
(entrypoints by set as JSON, NUL, binaries, each behind its length in four bytes), `F`
fork onto the socket that is sent once it is waited for, `K` end a worker (its number).
Answers: `B` binaries, `E` findings (JSON), `O` done (a number for `F`), `X` a text.
A worker's socket: `Q` an entrypoint's place (two bytes) and an input (JSON) is answered by
`V` a value (JSON), `X` a text, or `I` a text where the input cannot be carried, `C` one where
the evaluation of it ended without an answer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from opa_bridge.errors import EngineError, EngineInputError, EvaluationError
from opa_bridge.frames import PeerGone, receive_frame, send_frame
from opa_bridge.rego_binary import pack_binaries, unpack_binaries
from opa_bridge.rego_library import LoadedPolicy, compile_bundle
from policies.diagnostic import LoadError

# BUDGET: what one evaluation may take beyond the loaded policy before the library gives up.
WORKER_BYTES = 512 * 1024 * 1024
_PR_SET_PDEATHSIG = 1

# A loaded policy, and the number of an entrypoint in it.
_Place = tuple[LoadedPolicy, int]


def main(descriptor: int) -> None:
    """Serve the control socket until its other end closes."""
    with socket.socket(fileno=descriptor) as control, suppress(PeerGone):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _Nursery(control).serve()


class _Nursery:
    """The policy in its loaded form, and the workers forked from it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._places: list[_Place] = []
        self._workers: set[int] = set()

    def serve(self) -> None:
        """Answer one request after the other; end every worker at the end."""
        try:
            while True:
                kind, payload = receive_frame(self._control)
                answer = self._answer(kind, payload)
                send_frame(self._control, *answer)
        finally:
            for worker in list(self._workers):
                self._end(worker)

    def _answer(self, kind: bytes, payload: bytes) -> tuple[bytes, bytes]:
        try:
            match kind:
                case b"C":
                    return b"B", _compiled(json.loads(payload))
                case b"L":
                    entrypoints, _, binary = payload.partition(b"\0")
                    self._places = _loaded(json.loads(entrypoints), binary)
                    return b"O", b""
                case b"F":
                    return b"O", str(self._fork()).encode()
                case _:
                    self._end(int(payload))
                    return b"O", b""
        except LoadError as exc:
            return b"E", json.dumps([_written(found) for found in exc.diagnostics]).encode()
        except (EngineError, OSError) as exc:
            return b"X", str(exc).encode()

    def _fork(self) -> int:
        """Return the number of a new worker on the socket that the other end sends."""
        send_frame(self._control, b"O", b"")
        _, descriptors, _, _ = socket.recv_fds(self._control, 1, 1)
        places = self._places
        if not places or not descriptors:
            raise EngineError("no policy is loaded")
        channel = socket.socket(fileno=descriptors[0])
        gc.freeze()
        number = os.fork()
        if number == 0:
            try:
                self._control.close()
                _work(channel, places)
            finally:
                # WHY whatever it ends of: on the way out the nursery would end the other workers.
                os._exit(0)
        channel.close()
        self._workers.add(number)
        return number

    def _end(self, worker: int) -> None:
        if worker in self._workers:
            self._workers.discard(worker)
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
            os.waitpid(worker, 0)


def _work(channel: socket.socket, places: list[_Place]) -> None:
    """Evaluate what comes until the other end closes."""
    limit_process()
    with suppress(PeerGone):
        while True:
            _, payload = receive_frame(channel)
            send_frame(channel, *_evaluated(places, payload))


def _evaluated(places: list[_Place], payload: bytes) -> tuple[bytes, bytes]:
    policy, entry = places[int.from_bytes(payload[:2])]
    try:
        return b"V", json.dumps(policy.evaluate(json.loads(payload[2:]), entry)).encode()
    except EngineInputError as exc:
        return b"I", str(exc).encode()
    except EvaluationError as exc:
        return b"C", str(exc).encode()
    except EngineError as exc:
        return b"X", str(exc).encode()
    except RecursionError:
        return b"I", b"the input or the result is nested too deep"


def _compiled(request: dict[str, Any]) -> bytes:
    return pack_binaries(
        compile_bundle([tuple(each) for each in modules], entrypoints, request["data"])
        for modules, entrypoints in request["sets"]
    )


def _loaded(sets: list[list[str]], binaries: bytes) -> list[_Place]:
    """Return where each entrypoint is asked, in the order of the sets."""
    places: list[_Place] = []
    for entrypoints, binary in zip(sets, unpack_binaries(binaries), strict=True):
        policy = LoadedPolicy(binary, entrypoints, sets[0][0])
        places += [(policy, entry) for entry in range(len(entrypoints))]
    return places


def _written(found: Any) -> list[Any]:
    """Return a finding of the compiler as JSON."""
    return [found.code, found.message, found.location.file, found.location.line]


def limit_process() -> None:
    """Bind this process to the nursery's life and to its share of memory."""
    # An abort is one denied request, not a file of half a gigabyte.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # WHY: in an evaluation that does not end nobody looks at a socket.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * resource.getpagesize() + WORKER_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


if __name__ == "__main__":
    main(int(sys.argv[1]))
    # WHY at once: who lets go of a policy waits for its processes, and nothing is left to tidy.
    os._exit(0)
