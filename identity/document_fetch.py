"""Fetch a small document from an issuer, guarded against where its name may lead.

Spec: reference 7.8; OWASP's advice on server-side request forgery. The address is
checked after the name was resolved, and it is the checked address that is
connected to, so that a name cannot answer twice with two addresses.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import httpcore

from identity.errors import KeySourceError

# BUDGET: the largest public key sets are some tens of KiB.
MAX_DOCUMENT_BYTES: Final = 1024 * 1024
# BUDGET: issuers redirect once at most, to a content network.
MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = range(200, 300)
_PORTS: Final = {"http": 80, "https": 443}

_REFUSED_NETWORKS: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "::/128",
        "169.254.0.0/16",  # RFC 3927 link-local, and the metadata service of most clouds
        "fe80::/10",  # RFC 4291 link-local
        "fd00:ec2::/32",  # metadata service, IPv6
        "100.100.100.200/32",  # metadata services at other addresses
        "168.63.129.16/32",
        "192.0.0.192/32",
        "224.0.0.0/4",
        "ff00::/8",
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")

Resolve = Callable[[str, int], Iterable[str]]
"""From host name and port to IP texts; raises OSError."""


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host as the system resolver gives them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_refused_address(text: str) -> bool:
    """Return whether an IP address is one that no issuer may stand at.

    Loopback and private addresses are allowed: issuers inside a cluster stand there.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return True
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_refused_address(str(inner))
    return any(address in network for network in _REFUSED_NETWORKS)


def fetch_document(
    url: str,
    *,
    timeout_seconds: float,
    resolve: Resolve = resolve_host,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """Return the body that a GET of the URL answers with 2xx.

    The timeout is for the whole exchange, redirects included. Proxies from the
    environment are not used.

    Raises:
        KeySourceError: the document could not be had; the message says why.
    """
    deadline = _Deadline(timeout_seconds)
    backend = _GuardedBackend(deadline, resolve)
    context = tls if tls is not None else ssl.create_default_context()
    try:
        with httpcore.ConnectionPool(ssl_context=context, network_backend=backend) as pool:
            return _follow(pool, url, deadline)
    except httpcore.TimeoutException as exc:
        raise KeySourceError(f"`{url}` did not answer within {timeout_seconds:g} s") from exc
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.UnsupportedProtocol,
        OSError,
        ValueError,
    ) as exc:
        raise KeySourceError(f"`{url}` could not be fetched: {type(exc).__name__}") from exc


def _follow(pool: httpcore.ConnectionPool, url: str, deadline: _Deadline) -> bytes:
    """Return the body at the end of at most `MAX_REDIRECTS` redirects."""
    current = url
    for _ in range(MAX_REDIRECTS + 1):
        _check_url(current)
        answer = _get(pool, current, deadline)
        if isinstance(answer, bytes):
            return answer
        following = urljoin(current, answer.target)
        if current.startswith("https:") and not following.startswith("https:"):
            raise KeySourceError(f"`{url}` redirects from https to something else")
        current = following
    raise KeySourceError(f"`{url}` redirects more than {MAX_REDIRECTS} times")


def _check_url(url: str) -> None:
    """Refuse a URL that is not http(s) with a host, or that carries credentials."""
    if not url.isascii() or not url.isprintable() or " " in url:
        raise KeySourceError("a URL holds printable ASCII characters only")
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise KeySourceError(f"`{parts.scheme}:` is not a scheme keys are fetched by")
    if parts.username is not None or parts.password is not None:
        raise KeySourceError("a URL with credentials is not fetched")


class _Redirect:
    """An answer that sends us elsewhere."""

    def __init__(self, target: str) -> None:
        """Keep the target as the header named it."""
        self.target = target


def _get(pool: httpcore.ConnectionPool, url: str, deadline: _Deadline) -> bytes | _Redirect:
    """Return the body of one GET, or where it redirects to."""
    headers = [("Host", urlsplit(url).netloc), ("Accept", "application/json")]
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), deadline.left())
    with pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as answer:
        if answer.status in _REDIRECTS:
            target = dict(answer.headers).get(b"location") or dict(answer.headers).get(b"Location")
            if target is not None:
                return _Redirect(target.decode("ascii", "replace"))
        if answer.status not in _OK:
            raise KeySourceError(f"`{url}` answered with status {answer.status}")
        body = bytearray()
        for chunk in answer.iter_stream():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise KeySourceError(f"`{url}` is longer than {MAX_DOCUMENT_BYTES} bytes")
        return bytes(body)


class _Deadline:
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


class _GuardedBackend(httpcore.NetworkBackend):
    """Connects only to addresses that an issuer may stand at."""

    def __init__(self, deadline: _Deadline, resolve: Resolve) -> None:
        """Keep the time limit and the resolver."""
        self._deadline = deadline
        self._resolve = resolve
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
        addresses = list(self._resolve(host, port))
        if not addresses or any(is_refused_address(address) for address in addresses):
            raise KeySourceError(f"`{host}` stands at an address that keys are not fetched from")
        failure: httpcore.ConnectError | None = None
        for address in addresses:
            try:
                stream = self._sockets.connect_tcp(
                    address, port, self._deadline.left(), local_address, socket_options
                )
            except httpcore.ConnectError as exc:
                failure = exc
            else:
                return _TimedStream(stream, self._deadline)
        raise failure or httpcore.ConnectError("no address took the connection")


class _TimedStream(httpcore.NetworkStream):
    """A connection on which every operation ends by one deadline."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        """Wrap a connected stream."""
        self._stream = stream
        self._deadline = deadline

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
        """Return the connection under TLS, the certificate verified for the host's name."""
        stream = self._stream.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _TimedStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Return what the wrapped stream knows."""
        return self._stream.get_extra_info(info)
