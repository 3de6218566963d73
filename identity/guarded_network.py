"""Connections that end by a deadline and lead only to allowed addresses.

Theory of operation. A name is resolved once, every address it has is judged, and
the connection goes to an address that was judged: a name that answers differently
the second time (DNS rebinding) is never asked a second time. Every redirect is a
new connection through here. TLS still verifies the certificate for the name.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import httpcore

from identity.address_guard import AddressRules, is_odd_ipv4
from identity.errors import KeySourceError

Resolve = Callable[[str, int], Iterable[str]]
"""From host name and port to IP texts; raises OSError."""

CheckCertificate = Callable[[bytes], None]
"""Judges the DER certificate of a TLS server beside what TLS verified; raises KeySourceError."""


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host as the system resolver gives them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Deadline:
    """The time that is left for an exchange; a server that drips bytes does not extend it."""

    def __init__(self, seconds: float) -> None:
        """Start the time now."""
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left, or raise httpcore's timeout when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the time for the exchange is over")
        return left


class GuardedBackend(httpcore.NetworkBackend):
    """Connects only to addresses that an issuer may stand at."""

    def __init__(
        self,
        deadline: Deadline,
        resolve: Resolve,
        addresses: AddressRules,
        check_certificate: CheckCertificate | None = None,
    ) -> None:
        """Keep the time limit, the resolver and the rules."""
        self._deadline = deadline
        self._resolve = resolve
        self._addresses = addresses
        self._check_certificate = check_certificate
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """Return a connection to the first address of the host that takes one."""
        addresses = self._checked_addresses(host, port)
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for tried, address in enumerate(addresses):
            # WHY a share: the first of two addresses may swallow what is sent to it.
            share = self._deadline.left() / (len(addresses) - tried)
            try:
                stream = self._sockets.connect_tcp(
                    address, port, share, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
            else:
                return _TimedStream(stream, self._deadline, self._check_certificate)
        raise failure or httpcore.ConnectError("no address took the connection")

    def _checked_addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, resolved once, all of them allowed."""
        if is_odd_ipv4(host):
            raise KeySourceError(f"`{host}` is a number that is no plain IPv4 address")
        addresses = self._resolved(host, port)
        if not addresses:
            raise KeySourceError(f"`{host}` has no address")
        # WHY one refused address refuses the host: a name that leads to both an issuer and
        # a metadata service is an attack, or will be taken for one tomorrow.
        for address in addresses:
            why = self._addresses.why_refused(address)
            if why:
                raise KeySourceError(
                    f"`{host}` stands at `{address}`, which is not fetched from: {why}"
                )
        return addresses

    def _resolved(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host, or raise httpcore's timeout at the deadline.

        WHY a thread: the system's resolver takes its own time, a minute and more where its servers
        are away, and knows no other. One that is late is left behind, and ends by itself.
        """
        found: Future[list[str]] = Future()

        def look_up() -> None:
            try:
                found.set_result(list(self._resolve(host, port)))
            # WHY every exception: who waits raises it.
            except Exception as exc:
                found.set_exception(exc)

        threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        try:
            return found.result(self._deadline.left())
        except FutureTimeoutError:
            raise httpcore.ConnectTimeout(
                f"the address of `{host}` was not found in time"
            ) from None


class _TimedStream(httpcore.NetworkStream):
    """A connection on which every operation ends by one deadline."""

    def __init__(
        self,
        stream: httpcore.NetworkStream,
        deadline: Deadline,
        check_certificate: CheckCertificate | None,
    ) -> None:
        """Wrap a connected stream."""
        self._stream = stream
        self._deadline = deadline
        self._check_certificate = check_certificate

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what arrives before the deadline."""
        return self._stream.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send before the deadline."""
        self._stream.write(buffer, self._deadline.left())

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Return the connection under TLS, the certificate verified as the context has it."""
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        if self._check_certificate is not None:
            try:
                der = stream.get_extra_info("ssl_object").getpeercert(True)
                self._check_certificate(der or b"")
            except BaseException:
                # Nothing was asked of this server yet, and nothing shall be.
                stream.close()
                raise
        return _TimedStream(stream, self._deadline, None)

    def get_extra_info(self, info: str) -> Any:
        """Return what the wrapped stream knows."""
        return self._stream.get_extra_info(info)
