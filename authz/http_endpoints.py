"""`/healthz`, `/readyz` and `/metrics` over plain HTTP, for kubelets and Prometheus.

- `/healthz`: the process is alive, 200.
- `/readyz`: 200 when checks are answered from a loaded set and records are accepted,
  else 503; the JSON body says which set serves and what is wrong with newer files.
- `/metrics`: Prometheus text.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Readiness = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Returns whether the process is ready, and the JSON that says why or why not."""


class HttpEndpoints:
    """The running HTTP listener."""

    def __init__(
        self, host: str, port: int, *, ready: Readiness, metrics: Callable[[], bytes]
    ) -> None:
        """Bind and begin to serve.

        Raises:
            OSError: the address cannot be bound.
        """
        self._server = _Server((host, port), _handler(ready, metrics))
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

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)


def _handler(ready: Readiness, metrics: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # BUDGET: a client that sends nothing must not hold a thread for ever.
        timeout = 10

        def do_GET(self) -> None:
            match self.path.partition("?")[0]:
                case "/healthz":
                    self._answer(200, "text/plain", b"ok\n")
                case "/readyz":
                    is_ready, body = ready()
                    text = json.dumps(body, indent=2).encode() + b"\n"
                    self._answer(200 if is_ready else 503, "application/json", text)
                case "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
                case _:
                    self._answer(404, "text/plain", b"/healthz /readyz /metrics\n")

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
