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
from email.errors import FirstHeaderLineIsContinuationDefect, MissingHeaderBodySeparatorDefect
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
_UNCLEAR: Final = (MissingHeaderBodySeparatorDefect, FirstHeaderLineIsContinuationDefect)
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
        self.routes = routes
        super().__init__(address, _Handler)

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


class _Handler(BaseHTTPRequestHandler):
    """The requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT_SECONDS

    def do_GET(self) -> None:
        """Answer a request that has no body."""
        if self._is_clear() and self._has_no_body():
            self._route(b"")

    def do_POST(self) -> None:
        """Answer a request with its body."""
        if self._is_clear() and (body := self._body()) is not None:
            self._route(body)

    def version_string(self) -> str:
        """Say no version: whoever wants to know may ask elsewhere."""
        return "meshwarden"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what counts is on the audit chain."""

    def _is_clear(self) -> bool:
        """Return whether nobody can read the header otherwise; the client is told where not.

        What a proxy before us reads otherwise ends elsewhere for it, and somebody else's request
        begins there.
        """
        # RFC 9112 §5.1: "No whitespace is allowed between the field name and colon"; the parser
        # takes such a line for the end of the header.
        if any(isinstance(each, _UNCLEAR) for each in self.headers.defects):
            self._refuse(400, "a header line cannot be read")
            return False
        # RFC 9112 §6.3, and of two tokens neither is believed.
        if any(len(self.headers.get_all(name, ())) > 1 for name in _ONCE):
            self._refuse(400, "a header comes twice")
            return False
        return True

    def _has_no_body(self) -> bool:
        """Return whether nothing follows the header; the client is told where not."""
        # RFC 9110 §9.3.1: content of a GET means nothing. Left unread it would be the next request.
        if self.headers.get("content-length", "0") == "0" and not self._is_coded():
            return True
        self._refuse(400, "a request of this method has no content")
        return False

    def _is_coded(self) -> bool:
        """Return whether the body is not sent as it is (RFC 9112 §6.1)."""
        return "transfer-encoding" in self.headers

    def _body(self) -> bytes | None:
        """Return the body, None where it cannot be had; the client is told why then."""
        length = self.headers.get("content-length", "")
        # RFC 9112 §6.3: a body of unknown length; none of our clients has one.
        if not length.isdecimal() or self._is_coded():
            self._refuse(411, "the request has no content-length")
            return None
        if len(length) > _MAX_DIGITS or int(length) > MAX_BODY_BYTES:
            self._refuse(413, f"the request is longer than {MAX_BODY_BYTES} bytes")
            return None
        body = self.rfile.read(int(length))
        if len(body) == int(length):
            return body
        # RFC 9112 §8: a message that ends before its length is incomplete. What it came with, a
        # token of one use say, is not looked at.
        self.close_connection = True
        return None

    def _route(self, body: bytes) -> None:
        """Answer by the route of the method and path."""
        path, routes = self.path.partition("?")[0], self._serving.routes
        answer = routes.get((self.command, path))
        if answer is not None:
            self._send(answer(self._request(path, body)))
        elif any(path == known for _, known in routes):
            self._refuse(405, "there is nothing here")
        else:
            self._refuse(404, "there is nothing here")

    def _request(self, path: str, body: bytes) -> HttpRequest:
        """Return what was asked, and how."""
        return HttpRequest(
            method=self.command,
            path=path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            address=str(self.client_address[0]),
            chain=peer_chain(self.connection),
        )

    def _refuse(self, status: int, why: str) -> None:
        """Say why there is no answer, and hang up."""
        self.close_connection = True
        self._send(HttpAnswer(status=status, body=f"{why}\n".encode(), kind="text/plain"))

    def _send(self, answer: HttpAnswer) -> None:
        """Send an answer."""
        self.send_response(answer.status)
        self.send_header("content-type", answer.kind)
        self.send_header("content-length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)
        self._serving.note_answered(self.connection)

    @property
    def _serving(self) -> _Server:
        """The server that this is a connection of."""
        return cast(_Server, self.server)
