"""`/healthz`, `/readyz` and `/metrics` over plain HTTP, for kubelets and Prometheus.

- `/healthz`: the process is alive, 200.
- `/readyz`: 200 when checks are answered from a loaded set and records are accepted,
  else 503; the JSON body says which set serves and what is wrong with newer files.
- `/metrics`: Prometheus text.

Whoever reaches the port may connect: a connection lasts for a while and no longer, and where there
are too many the oldest goes, so that a crowd that says nothing keeps no probe from its answer.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

Readiness = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Returns whether the process is ready, and the JSON that says why or why not."""
MOST_CONNECTIONS: Final = 128
"""BUDGET: each takes a thread; those who have a reason to ask are a kubelet and a few scrapers."""
_MOST_SECONDS: Final = 60.0


class HttpEndpoints:
    """The running HTTP listener."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ready: Readiness,
        metrics: Callable[[], bytes],
        on_defect: Callable[[Exception], None],
    ) -> None:
        """Bind and begin to serve; `on_defect` hears of errors of ours while somebody is answered.

        Raises:
            OSError: the address cannot be bound.
        """
        self._server = _Server((host, port), _handler(ready, metrics, on_defect), on_defect)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="http", daemon=True, args=(0.1,)
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The bound port."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        on_defect: Callable[[Exception], None],
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._on_defect = on_defect
        # The oldest first, each with when it came.
        self._open: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; where there are too many, the oldest goes."""
        self._hang_up_on_some(MOST_CONNECTIONS - 1)
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection; its thread calls this, or who could start none."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Hang up on those who stayed too long; called again and again while serving."""
        self._hang_up_on_some(MOST_CONNECTIONS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of a defect; that a client broke off is its own affair."""
        error = sys.exc_info()[1]
        if isinstance(error, Exception) and not isinstance(error, OSError):
            self._on_defect(error)

    def _hang_up_on_some(self, most: int) -> None:
        """Have the oldest end until `most` are left, and whoever came too long ago."""
        before = time.monotonic() - _MOST_SECONDS
        connections = tuple(self._open.items())
        for number, (connection, since) in enumerate(connections):
            if since >= before and len(connections) - number <= most:
                return
            self._open.pop(connection, None)
            # Its thread sees the end, and closes it.
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


_Answer = tuple[int, str, bytes]


def _handler(
    ready: Readiness, metrics: Callable[[], bytes], on_defect: Callable[[Exception], None]
) -> type[BaseHTTPRequestHandler]:
    def answer_to(path: str) -> _Answer:
        match path.partition("?")[0]:
            case "/healthz":
                return 200, "text/plain", b"ok\n"
            case "/readyz":
                is_ready, body = ready()
                text = json.dumps(body, indent=2).encode() + b"\n"
                return 200 if is_ready else 503, "application/json", text
            case "/metrics":
                return 200, "text/plain; version=0.0.4; charset=utf-8", metrics()
        return 404, "text/plain", b"/healthz /readyz /metrics\n"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # BUDGET: a client that sends nothing must not hold a thread for ever.
        timeout = 10

        def do_GET(self) -> None:
            try:
                answer = answer_to(self.path)
            except Exception as exc:
                # WHY so wide: a probe is told at once, whatever one of so many parts brings up.
                on_defect(exc)
                answer = 500, "text/plain", b"this cannot be told now\n"
            self._answer(*answer)

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def version_string(self) -> str:
            """Say no version: whoever wants to know may ask elsewhere."""
            return "meshwarden"

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: probes are no news."""

    return Handler
