"""A small HTTPS server: a few routes, short requests, one thread a connection, strict limits.

The TLS context is asked for at every connection, so a renewed certificate serves the next one. The
handshake happens in the connection's own thread: nobody who dawdles keeps others waiting.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, cast

import structlog

from ca.errors import ListenError
from ca.tls import peer_chain

_log = structlog.get_logger(__name__)
# BUDGET: a client that sends nothing must not hold a thread for ever.
_TIMEOUT_SECONDS: Final = 10.0
# BUDGET: the largest request is a CSR of 16 KiB in JSON.
MAX_BODY_BYTES: Final = 64 * 1024
_MAX_DIGITS: Final = len(str(MAX_BODY_BYTES))
_ONCE: Final = ("authorization", "content-length")
# BUDGET: a thread takes some 50 KiB; more at once is no use of this server.
_MAX_CONNECTIONS: Final = 256
# BUDGET: from the first byte of a handshake or request to the last; who sends a byte now and then
# would else keep a place for ever, and a few hundred such callers all of them.
_REQUEST_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request; header names are lower-case.

    `chain` is what the TLS client has shown (DER, leaf first), empty where it showed nothing.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(default=b"", repr=False)
    address: str = ""
    chain: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpAnswer:
    """An answer with a body."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Callable[[HttpRequest], HttpAnswer]
"""Answers one request, in the connection's thread; must not raise."""


class HttpsServer:
    """The running listener; `close` it when done."""

    def __init__(
        self,
        listen: str,
        context: Callable[[], ssl.SSLContext],
        routes: Mapping[tuple[str, str], Answer],
    ) -> None:
        """Listen on `listen` (`host:port`) and answer `routes`, by method and path.

        Raises:
            ListenError: the address cannot be listened on.
        """
        host, _, port = listen.rpartition(":")
        try:
            self._server = _Server((host.strip("[]"), int(port)), context, routes)
        except OSError as exc:
            why = exc.strerror or str(exc)
            raise ListenError(f"`{listen}` cannot be listened on: {why}") from exc
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="https", daemon=True, args=(0.1,)
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
        context: Callable[[], ssl.SSLContext],
        routes: Mapping[tuple[str, str], Answer],
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._context = context
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        # Since when each open connection owes us a whole request.
        self._owing: dict[ssl.SSLSocket, float] = {}
        super().__init__(address, _handler(routes))

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve in a thread of its own, unless there are too many."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Shake hands, then serve; the thread's top."""
        try:
            request.settimeout(_TIMEOUT_SECONDS)
            context = self._context()
            # A handshake that fails is the client's own affair; TLS has told it why.
            with suppress(OSError), _wrapped(context, request) as secured:
                self.note_answered(secured)
                try:
                    secured.do_handshake()
                    self.finish_request(secured, client_address)
                finally:
                    self._owing.pop(secured, None)
        except Exception:
            # The thread must give its place back whatever a request brings up.
            _log.exception("https_request_failed")
        finally:
            self._free.release()
            self.shutdown_request(request)

    def note_answered(self, connection: ssl.SSLSocket) -> None:
        """Give a connection its time for the next request."""
        self._owing[connection] = time.monotonic()

    def service_actions(self) -> None:
        """Hang up on those who take too long; called again and again while serving."""
        now = time.monotonic()
        for connection, since in tuple(self._owing.items()):
            if now - since > _REQUEST_SECONDS:
                with suppress(OSError):
                    # WHY not the connection's own: that one forgets its TLS, which its thread uses.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _wrapped(context: ssl.SSLContext, request: Any) -> ssl.SSLSocket:
    """Return a connection with TLS on it, the handshake still to come."""
    return context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)


def _handler(routes: Mapping[tuple[str, str], Answer]) -> type[BaseHTTPRequestHandler]:
    paths = {path for _, path in routes}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _TIMEOUT_SECONDS

        def do_GET(self) -> None:
            self._route(b"")

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            # RFC 9112 §6.1: a body of unknown length; none of our clients has one.
            if not length.isdecimal() or "transfer-encoding" in self.headers:
                self._refuse(411, "the request has no content-length")
            elif len(length) > _MAX_DIGITS or int(length) > MAX_BODY_BYTES:
                self._refuse(413, f"the request is longer than {MAX_BODY_BYTES} bytes")
            elif len(body := self.rfile.read(int(length))) == int(length):
                self._route(body)
            else:
                # RFC 9112 §8: a message that ends before its length is incomplete. What it came
                # with, a token of one use say, is not looked at.
                self.close_connection = True

        def _route(self, body: bytes) -> None:
            # RFC 9112 §6.3, and of two tokens neither is believed.
            if any(len(self.headers.get_all(name, ())) > 1 for name in _ONCE):
                self._refuse(400, "a header comes twice")
                return
            path = self.path.partition("?")[0]
            answer = routes.get((self.command, path))
            if answer is None:
                self._refuse(405 if path in paths else 404, "there is nothing here")
                return
            self._send(
                answer(
                    HttpRequest(
                        method=self.command,
                        path=path,
                        headers={name.lower(): value for name, value in self.headers.items()},
                        body=body,
                        address=str(self.client_address[0]),
                        chain=peer_chain(self.connection),
                    )
                )
            )

        def _refuse(self, status: int, why: str) -> None:
            self.close_connection = True
            self._send(HttpAnswer(status=status, body=f"{why}\n".encode(), kind="text/plain"))

        def _send(self, answer: HttpAnswer) -> None:
            self.send_response(answer.status)
            self.send_header("content-type", answer.kind)
            self.send_header("content-length", str(len(answer.body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)
            cast(_Server, self.server).note_answered(self.connection)

        def version_string(self) -> str:
            """Say no version: whoever wants to know may ask elsewhere."""
            return "meshwarden"

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: what counts is on the audit chain."""

    return Handler
