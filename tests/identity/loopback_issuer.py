"""An issuer on loopback for tests: good, failing, lying and slow, as its table says."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import threading
from collections.abc import Callable
from typing import Any

from identity.address_guard import AddressRules
from identity.document_fetch import DocumentFetcher

PATIENCE = 5.0
ON_LOOPBACK = AddressRules(allow_loopback=True)
FETCHER = DocumentFetcher(addresses=ON_LOOPBACK, tls=ssl.create_default_context())


class Issuer:
    """A loopback issuer; `answers` maps a path to status, headers and body, or to an act."""

    def __init__(self) -> None:
        """Listen on a free port."""
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.asked_again = threading.Condition()
        self.release = threading.Event()
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            """Answers from the issuer's table."""

            def do_GET(self) -> None:
                """Answer one request."""
                length = int(self.headers.get("content-length", 0))
                with issuer.asked_again:
                    issuer.asked.append(self.path)
                    issuer.received.append((dict(self.headers), self.rfile.read(length)))
                    issuer.asked_again.notify_all()
                answer = issuer.answers.get(self.path, (404, {}, b""))
                if callable(answer):
                    answer(self)
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                # Who is refused may hang up before the end.
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Keep quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def wait_asked(self, count: int) -> None:
        """Wait until so many requests have come."""
        with self.asked_again:
            assert self.asked_again.wait_for(lambda: len(self.asked) >= count, PATIENCE)

    def close(self) -> None:
        """Stop listening."""
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def eventually(holds: Callable[[], bool], pause: threading.Event | None = None) -> None:
    """Wait until something holds that another thread brings about."""
    pause = pause or threading.Event()
    for _ in range(int(PATIENCE / 0.005)):
        if holds():
            return
        pause.wait(0.005)
    raise AssertionError("it did not come about")
