"""One worker of a server: started, told of when it listens, drained when it is told to.

Theory of operation. A worker is this program again, or an Envoy that runs it, with one end of a
socket pair. It says there, in one line, where its HTTP endpoints are; the pair is also its
leash: when the other end lets go, on purpose or with its process, the worker drains and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Final

import httpx

from authz.errors import ListenError
from authz.serve import Seat

_START_SECONDS: Final = 120.0
_ASK_SECONDS: Final = 2.0


StartWorker = Callable[[str, int], "subprocess.Popen[bytes]"]
"""A worker's name and its end of the leash, a descriptor to inherit, to its process."""


class WorkerProcess:
    """A running worker."""

    def __init__(
        self, name: str, start: StartWorker, on_end: Callable[[WorkerProcess, int], None]
    ) -> None:
        """Start it; `on_end` hears, in a thread of its own, of its end and its exit code.

        Raises:
            ListenError: what it needs is not installed.
        """
        self.name = name
        self.is_expected_to_end = False
        self._http_port = 0
        ours, theirs = socket.socketpair()
        self._leash = ours
        with theirs:
            self._process = start(name, theirs.fileno())
        threading.Thread(
            target=lambda: on_end(self, self._process.wait()), name=f"worker-{name}", daemon=True
        ).start()

    def wait_until_it_listens(self) -> None:
        """Return once checks are answered.

        Raises:
            ListenError: it ended instead, or takes too long; it said why in the log.
        """
        self._leash.settimeout(_START_SECONDS)
        try:
            line = self._leash.makefile("rb").readline()
        except OSError:
            line = b""
        if not line:
            self.drain()
            what = f"worker `{self.name}`" if self.name else "the authorizer"
            raise ListenError(f"{what} did not come to listen")
        self._http_port = int(json.loads(line)["http_port"])

    @property
    def exit_code(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    def ask(self, path: str) -> httpx.Response | None:
        """Return the answer of its HTTP endpoints, None where there is none."""
        try:
            return httpx.get(f"http://127.0.0.1:{self._http_port}{path}", timeout=_ASK_SECONDS)
        except httpx.HTTPError:
            return None

    def drain(self) -> None:
        """Have it finish what it began, and end."""
        self.is_expected_to_end = True
        # It is at the other end already where it has ended.
        with contextlib.suppress(OSError):
            self._leash.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> int:
        """Wait for its end and return the exit code; it is killed when it takes longer."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._leash.close()
        return code


def sit_down(worker: str, leash: int, stop: threading.Event) -> Seat:
    """Return the seat of this process, a worker that stops when its leash is let go."""
    pair = socket.socket(fileno=leash)
    os.set_inheritable(leash, False)

    def listening(port: int) -> None:
        pair.sendall(json.dumps({"http_port": port}).encode() + b"\n")

    def hold() -> None:
        # Nobody ever writes: this returns when the other end is closed.
        pair.recv(1)
        stop.set()

    threading.Thread(target=hold, name="leash", daemon=True).start()
    return Seat(worker=worker, shares_port=True, listening=listening)
