"""One worker of a server: started, told of when it listens, drained when it is told to.

Theory of operation. A worker is this program again, with one end of a socket pair. It says
there, in one line, where its HTTP endpoints are; the pair is also its leash: when the other
end is gone, the server that started it is gone, and it drains and ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

from authz.errors import ListenError
from authz.serve import Seat

_START_SECONDS: Final = 120.0
_ASK_SECONDS: Final = 2.0


class WorkerProcess:
    """A running worker."""

    def __init__(
        self, name: str, config: Path, on_end: Callable[[WorkerProcess, int], None]
    ) -> None:
        """Start it; `on_end` hears, in a thread of its own, of its end and its exit code."""
        self.name = name
        self.is_expected_to_end = False
        self._http_port = 0
        ours, theirs = socket.socketpair()
        self._leash = ours
        command = [sys.executable, "-P", "-m", "authz", "serve", "-c", str(config)]
        command += ["--worker", name, "--leash", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
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
            raise ListenError(f"worker `{self.name}` did not come to listen")
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
        if self.exit_code is None:
            self._process.send_signal(signal.SIGTERM)

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
