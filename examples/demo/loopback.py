"""Loopback: ports that nobody listens on, and small HTTP servers on such ports."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import SystemRandom
from types import TracebackType
from typing import Final

from examples.demo.processes import DemoError

LOOPBACK: Final = "127.0.0.1"
# WHY: below the range from which systems take the ports of outgoing connections, and
# not simply port 0: the authorizer is killed and started again on the same port, and
# in between an outgoing connection must not get it (not even Envoy's own to that port).
_LOWEST, _HIGHEST = 15000, 32000
_TRIES: Final = 200


def find_free_ports(count: int) -> tuple[int, ...]:
    """Return `count` different ports that could be bound a moment ago.

    Raises:
        DemoError: no port could be bound.
    """
    found: list[int] = []
    for port in SystemRandom().sample(range(_LOWEST, _HIGHEST), _TRIES):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise DemoError(f"no free port on {LOOPBACK} between {_LOWEST} and {_HIGHEST}")
    return tuple(found)


def _is_free(port: int) -> bool:
    """Whether the port can be bound now."""
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


class LoopbackServer:
    """A real HTTP server on a free port of loopback, answered by a thread of this process."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        """Bind the port; nothing is answered before the context is entered."""
        self._server = ThreadingHTTPServer((LOOPBACK, 0), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> LoopbackServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
