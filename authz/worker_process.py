"""One worker of a server: started, told of when it listens, drained when it is told to.

Theory of operation. A worker is this program again, or an Envoy that runs it, with one end of a
socket pair. It says there, in one line, where its HTTP endpoints are; the pair is also its
leash: when the other end lets go, on purpose or with its process, the worker drains and ends. Until
then it is asked there, line by line, to whom new connections shall be dealt, and says if they are.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Final

from authz.errors import ListenError

_START_SECONDS: Final = 120.0
_ASK_SECONDS: Final = 2.0
# BUDGET: a worker tries each place in the port's group for some seconds at most.
_DEAL_SECONDS: Final = 10.0

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
        self._leash, self._told = ours, ours.makefile("rb")
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
            line = self._told.readline()
        except OSError:
            line = b""
        if not line:
            self.drain()
            what = f"worker `{self.name}`" if self.name else "the authorizer"
            raise ListenError(f"{what} did not come to listen")
        self._http_port = int(json.loads(line)["http_port"])

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it ended, and was waited for."""
        return self._process.returncode is not None

    def ask(self, path: str) -> bytes | None:
        """Return what its HTTP endpoints answer, whatever the status; None where nothing comes."""
        # WHY here: one that is alone is never asked.
        from http.client import HTTPConnection, HTTPException  # noqa: PLC0415

        connection = HTTPConnection("127.0.0.1", self._http_port, timeout=_ASK_SECONDS)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                return connection.getresponse().read()
            except (OSError, HTTPException):
                return None

    def take_new_connections(self, others: int) -> bool:
        """Have all new connections dealt to it, beside so many others; return whether they are."""
        return self._ask_to_deal({"others": others})

    def deal_to_all(self) -> bool:
        """Have new connections dealt to all workers again; return whether they are."""
        return self._ask_to_deal({})

    def _ask_to_deal(self, how: dict[str, int]) -> bool:
        self._leash.settimeout(_DEAL_SECONDS)
        try:
            self._leash.sendall(json.dumps(how).encode() + b"\n")
            line = self._told.readline()
        except OSError:
            return False
        return bool(line and json.loads(line)["done"])

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
        self._told.close()
        self._leash.close()
        return code
