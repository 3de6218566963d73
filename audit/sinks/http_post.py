"""One body a time to one address, bounded in time as a whole.

A socket's timeout bounds one read: a service that sends a byte now and then would hold the
thread for ever. A timer for each request shuts the socket down, and so does `close`: the
read that waits returns at once, and fails. Redirects are not followed.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from audit.sinks.sink import SinkError

_MAX_ANSWER_BYTES: Final = 64 * 1024  # BUDGET: of an answer's body that are read and thrown away
_MAX_TOKEN_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where bodies go and how. Files are read for each connection, so that they may rotate."""

    url: str
    timeout_seconds: float = 10.0
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None


class HttpPost:
    """The way to one address: one connection, kept while it holds. One thread calls it."""

    def __init__(self, address: Address) -> None:
        """Keep the address; nothing is connected yet."""
        self._address = address
        self._connection: HTTPConnection | None = None
        self._is_closed = False

    def __call__(self, body: bytes) -> tuple[int, float]:
        """Return the status and what `Retry-After` asks for, in seconds.

        Raises:
            SinkError: no answer came.
        """
        was_kept = self._connection is not None
        try:
            return self._exchange(body)
        except (OSError, HTTPException, ValueError, SinkError) as exc:
            self._drop()
            if not was_kept or self._is_closed or isinstance(exc, TimeoutError):
                raise _sink_error(exc) from exc
        # A kept connection may have been closed at the other end meanwhile.
        try:
            return self._exchange(body)
        except (OSError, HTTPException, ValueError, SinkError) as exc:
            self._drop()
            raise _sink_error(exc) from exc

    def close(self) -> None:
        """Shut the connection down, also under a call that waits, which fails."""
        self._is_closed = True
        _shut_down(self._connection)
        self._drop()

    def _exchange(self, body: bytes) -> tuple[int, float]:
        seconds = self._address.timeout_seconds
        connection = self._connection = self._connection or self._connected()
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            _shut_down(connection)

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            connection.request("POST", self._target(), body, self._headers())
            answer = connection.getresponse()
            answer.read(_MAX_ANSWER_BYTES)
            if not answer.isclosed():
                self._drop()
            return answer.status, _seconds_of(answer.getheader("Retry-After", ""))
        except (OSError, HTTPException) as exc:
            if expired.is_set():
                raise TimeoutError(f"no answer within {seconds:g} s") from exc
            raise
        finally:
            timer.cancel()

    def _connected(self) -> HTTPConnection:
        if self._is_closed:
            raise SinkError("it is being closed")
        parts = urlsplit(self._address.url)
        host, seconds = parts.hostname or "", self._address.timeout_seconds
        if parts.scheme == "http":
            return HTTPConnection(host, parts.port, timeout=seconds)
        return HTTPSConnection(host, parts.port, timeout=seconds, context=self._tls())

    def _tls(self) -> ssl.SSLContext:
        address = self._address
        context = ssl.create_default_context(cafile=address.ca_file)
        if address.certificate_file is not None:
            context.load_cert_chain(address.certificate_file, address.key_file)
        return context

    def _target(self) -> str:
        parts = urlsplit(self._address.url)
        return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")

    def _headers(self) -> Mapping[str, str]:
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        if self._address.token_file is not None:
            with self._address.token_file.open(encoding="ascii", errors="strict") as file:
                headers["Authorization"] = f"Bearer {file.read(_MAX_TOKEN_BYTES).strip()}"
        return headers

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _shut_down(connection: HTTPConnection | None) -> None:
    found = connection.sock if connection is not None else None
    if found is not None:
        with suppress(OSError):
            found.shutdown(socket.SHUT_RDWR)


def _sink_error(exc: Exception) -> SinkError:
    if isinstance(exc, SinkError):
        return exc
    if isinstance(exc, ValueError):
        return SinkError("the token file holds no token")  # WHY no more: it may quote the token
    why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
    return SinkError(f"the service cannot be reached: {why or type(exc).__name__}")


def _seconds_of(text: str) -> float:
    """Return the seconds in `Retry-After`; its other form, a date, is not waited for."""
    return float(text) if text.isascii() and text.isdigit() else 0.0
