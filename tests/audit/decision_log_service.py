"""A service that takes OPA's decision logs over real HTTP, and misbehaves as it is told."""

from __future__ import annotations

import gzip
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.loopback import http_server

HANG, DROP, DRIP = "hang", "drop", "drip"
"""Keep a request without an answer; close the connection; answer a byte now and then."""


@dataclass(slots=True)
class Service:
    """What came, and what is answered: each of `answers` once, then `default`.

    An answer is a status, (status, headers), or one of the words above. `most_bytes` answers
    413 to larger bodies.
    """

    port: int = 0
    answers: deque[Any] = field(default_factory=deque)
    default: Any = 200
    most_bytes: int = 1 << 30
    batches: list[list[dict[str, Any]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    requests: int = 0
    came: threading.Condition = field(default_factory=threading.Condition)
    let_go: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/logs"

    def events(self) -> list[dict[str, Any]]:
        """Return all events that were acknowledged, in order."""
        return [event for batch in list(self.batches) for event in batch]

    def wait(self, condition, seconds: float = 20.0) -> None:
        """Wait until the condition holds, looked at whenever a request was answered."""
        with self.came:
            assert self.came.wait_for(condition, seconds), "it never came"


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            answer = service.answers.popleft() if service.answers else service.default
            if len(raw) > service.most_bytes:
                answer = 413
            with service.came:
                service.requests += 1
                service.bodies.append(raw)
                service.headers.append(dict(self.headers))
                if answer == 200:
                    service.batches.append(json.loads(gzip.decompress(raw)))
                service.came.notify_all()
            self._answer(answer)

        def _answer(self, answer: Any) -> None:
            if answer == HANG:
                service.let_go.wait(30)
            if answer in (HANG, DROP):
                self.close_connection = True
                return
            if answer == DRIP:
                while not service.let_go.wait(0.05):
                    self.wfile.write(b"H")
                return
            status, headers = answer if isinstance(answer, tuple) else (answer, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True  # the client gave up

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    return Handler


@contextmanager
def serving(service: Service) -> Iterator[Service]:
    """Run the service; at its port where it had one before."""
    with http_server(_handler(service), service.port) as server:
        service.port = server.server_port
        try:
            yield service
        finally:
            service.let_go.set()
