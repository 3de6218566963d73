"""HTTP/1.1 to one OPA server: kept-alive connections, one deadline a call, bounded retries.

Theory of operation. A timeout of a socket bounds one read, so a server that sends a byte a
second would hold a call for ever; here every read gets what is left of the call. A call is
tried again only while not one byte of its answer has come, and only as long as retries
stay few beside calls: a server in trouble is not asked twice as often for it.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import Any, Final

from opa_bridge.errors import EngineError, EngineTimeout
from opa_bridge.opa_address import Endpoint, OpaServer

# BUDGET: idle connections kept; as many as the authorizer has threads at most.
_IDLE_MOST: Final = 64
# BUDGET: retries beside calls, and how many may come at once.
_RETRY_RATIO: Final = 0.1
_RETRY_MOST: Final = 10.0
_HEADER_BYTES: Final = 64 * 1024


class Unanswered(Exception):
    """The connection failed before the first byte of an answer."""


class OpaConnections:
    """The way to one server. Safe from many threads."""

    def __init__(self, server: OpaServer, endpoint: Endpoint) -> None:
        """Keep the address; nothing is connected yet."""
        self._server = server
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._idle: list[_Connection] = []
        self._retries = RetryBudget()
        self._tls: tuple[object, ssl.SSLContext] | None = None
        self._is_closed = False
        # What a reload leaves behind closes with the last reference.
        weakref.finalize(self, _close_all, self._idle)

    def call(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> tuple[int, bytes]:
        """Return status and body of the answer.

        Raises:
            EngineTimeout: the answer was not whole within `seconds`.
            EngineError: no connection, or an answer that is none.
        """
        deadline = time.monotonic() + seconds
        message = self._message(method, path, headers, body)
        self._retries.earn()
        try:
            try:
                return self._exchange(message, method, deadline)
            except Unanswered as exc:
                if not self._retries.spend():
                    raise EngineError(f"OPA cannot be reached: {exc}") from exc
            return self._exchange(message, method, deadline)
        except Unanswered as exc:
            raise EngineError(f"OPA cannot be reached: {exc}") from exc
        except TimeoutError as exc:
            message_ = f"stopped: no verdict within {seconds * 1000:.0f} ms"
            raise EngineTimeout(message_) from exc

    def close(self) -> None:
        """Close what is idle; what is in use closes after its answer."""
        with self._lock:
            self._is_closed = True
            _close_all(self._idle)

    def _message(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        lines = [f"{method} {self._endpoint.prefix}{path} HTTP/1.1"]
        lines += [f"Host: {self._endpoint.authority}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def _exchange(self, message: bytes, method: str, deadline: float) -> tuple[int, bytes]:
        connection = self._taken() or self._connected(deadline)
        is_reusable = False
        try:
            limit = self._server.max_result_bytes
            status, body, is_reusable = connection.exchange(message, method, deadline, limit)
            return status, body
        finally:
            self._put(connection, is_reusable=is_reusable)

    def _taken(self) -> _Connection | None:
        """Return an idle connection that the server has not closed meanwhile."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_quiet():
                return connection
            connection.close()

    def _put(self, connection: _Connection, *, is_reusable: bool) -> None:
        with self._lock:
            if is_reusable and not self._is_closed and len(self._idle) < _IDLE_MOST:
                self._idle.append(connection)
                return
        connection.close()

    def _connected(self, deadline: float) -> _Connection:
        endpoint = self._endpoint
        try:
            if endpoint.socket_path:
                channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                try:
                    channel.settimeout(_left(deadline))
                    channel.connect(endpoint.socket_path)
                except OSError:
                    channel.close()
                    raise
            else:
                address = (endpoint.host, endpoint.port)
                channel = socket.create_connection(address, _left(deadline))
                channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _Connection(self._secured(channel))
        except TimeoutError:
            raise
        except OSError as exc:
            raise Unanswered(_why(exc)) from exc

    def _secured(self, channel: socket.socket) -> socket.socket:
        if not self._endpoint.is_tls:
            return channel
        try:
            return self._context().wrap_socket(channel, server_hostname=self._endpoint.host)
        except (OSError, EngineError):
            channel.close()
            raise

    def _context(self) -> ssl.SSLContext:
        """Return the TLS settings, made anew when a file has changed."""
        server = self._server
        files = (server.ca_file, server.certificate_file, server.key_file)
        try:
            # A certificate of ours lives for an hour or so, and so do its files.
            stamp = [file and (file.stat().st_mtime_ns, file.stat().st_ino) for file in files]
            with self._lock:
                if self._tls is None or self._tls[0] != stamp:
                    context = ssl.create_default_context(cafile=server.ca_file)
                    if server.certificate_file is not None:
                        context.load_cert_chain(server.certificate_file, server.key_file)
                    self._tls = (stamp, context)
                return self._tls[1]
        except OSError as exc:
            raise EngineError(f"the TLS files for OPA cannot be read: {_why(exc)}") from exc


def _close_all(idle: list[_Connection]) -> None:
    while idle:
        idle.pop().close()


class RetryBudget:
    """Retries earned by calls: a tenth of one each, ten at most. Safe from many threads."""

    def __init__(self) -> None:
        """Begin with all of it."""
        self._lock = threading.Lock()
        self._left = _RETRY_MOST

    def earn(self) -> None:
        """Add what one call is worth."""
        with self._lock:
            self._left = min(self._left + _RETRY_RATIO, _RETRY_MOST)

    def spend(self) -> bool:
        """Return whether there is one retry left, and take it."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


class _Connection:
    """One socket; one exchange at a time."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def is_quiet(self) -> bool:
        """Return whether nothing came on it while nobody asked: no end, no stray bytes."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Close the socket."""
        with suppress(OSError):
            self._channel.close()

    def exchange(
        self, message: bytes, method: str, deadline: float, limit: int
    ) -> tuple[int, bytes, bool]:
        """Return status, body and whether the connection can be used again."""
        reader = _Reader(self._channel, deadline, limit + _HEADER_BYTES)
        try:
            self._channel.settimeout(_left(deadline))
            self._channel.sendall(message)
            with HTTPResponse(_Readable(reader), method=method) as response:  # type: ignore[arg-type]  # only `makefile` is asked of it
                response.begin()
                body = response.read()
                return response.status, body, not response.will_close
        except TimeoutError:
            raise
        except (OSError, HTTPException) as exc:
            if not reader.received:
                raise Unanswered(_why(exc)) from exc
            raise EngineError(f"OPA's answer broke off: {type(exc).__name__}") from exc


class _Readable:
    """What `HTTPResponse` takes for a socket."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the bytes that come, as a file."""
        return io.BufferedReader(self._reader)


class _Reader(io.RawIOBase):
    """The bytes of one answer, within the time and the size of the call."""

    def __init__(self, channel: socket.socket, deadline: float, limit: int) -> None:
        self._channel = channel
        self._deadline = deadline
        self._limit = limit
        self.received = 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there, at most what fits; 0 is the end."""
        self._channel.settimeout(_left(self._deadline))
        count = self._channel.recv_into(buffer)
        self.received += count
        if self.received > self._limit:
            raise EngineError("OPA's answer is larger than `max_result_bytes`")
        return count


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _why(exc: Exception) -> str:
    """Return the system's own words, or the kind of error: never a peer's text."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({exc.verify_message})"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed ({exc.reason or type(exc).__name__})"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror.lower()
    return type(exc).__name__
