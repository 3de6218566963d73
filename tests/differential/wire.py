"""Probes on the wire: a client of our own, for no library sends what a probe may say.

Connections are kept and used again, as long as the other side keeps them open.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tests.differential.identities import Identities, is_ipv6
from tests.differential.model import PLAINTEXT, Answer, Probe
from tests.differential.tokens import TokenMint
from tests.differential.wire_http2 import Http2Connection

_SECONDS = 10.0
_TOKEN = re.compile(r"\{token(\d+)\}")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_DETAILS = re.compile(rb"\r\nx-details: *([^\r]*)", re.IGNORECASE)
_BODILESS = (204, 304)
# More than the TLS inspector must see to call a connection plaintext.
_FIRST_BYTES = b"differential trial\n"

Place = tuple[str, int]
# What a connection is kept for: its place, peer, SNI, source, destination and client.
_Kind = tuple[Place, str, str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where one side of a policy set listens, over IPv4 and IPv6."""

    ipv4: Place
    ipv6: Place


@dataclass(slots=True, kw_only=True)
class Client:
    """Sends probes; one connection for each kind of connection a probe asks for."""

    identities: Identities
    mint: TokenMint
    _open: dict[_Kind, socket.socket] = field(default_factory=dict)
    _open_http2: dict[_Kind, Http2Connection] = field(default_factory=dict)

    def ask(self, door: Door, probe: Probe) -> Answer:
        """Return the answer to one HTTP probe; a dead kept connection is opened anew."""
        place = door.ipv6 if is_ipv6(probe.source) else door.ipv4
        key = (place, probe.peer, probe.sni, probe.source, probe.destination, probe.client)
        if probe.scheme:
            return self._ask_http2(place, key, probe)
        message = self.message(probe)
        kept = self._open.pop(key, None)
        if kept is not None:
            answer = self._exchange(kept, key, message, probe)
            if answer is not None:
                return answer
        fresh = self._connect(place, probe)
        if fresh is None:
            return Answer(status=0, why="the connection was refused")
        answer = self._exchange(fresh, key, message, probe)
        return answer or Answer(status=0, why="the connection was closed")

    def _ask_http2(self, place: Place, key: _Kind, probe: Probe) -> Answer:
        """Return the answer over HTTP/2; a dead kept connection is opened anew."""
        headers = self.header_list(probe)
        kept = self._open_http2.pop(key, None) if probe.method != "CONNECT" else None
        if kept is not None:
            answer = kept.ask(headers)
            if answer is not None:
                self._open_http2[key] = kept
                return answer
            kept.close()
        fresh = self._connect(place, probe)
        if fresh is None:
            return Answer(status=0, why="the connection was refused")
        connection = Http2Connection(fresh)
        answer = connection.ask(headers)
        if answer is None or probe.method == "CONNECT":
            connection.close()
            return answer or Answer(status=0, why="the connection was closed")
        self._open_http2[key] = connection
        return answer

    def knock(self, door: Door, probe: Probe) -> Answer:
        """Return the answer to one TCP probe: 200 when bytes come back, else 403."""
        place = door.ipv6 if is_ipv6(probe.source) else door.ipv4
        connection = self._connect(place, probe)
        if connection is None:
            return Answer(status=0, why="the connection was refused")
        with connection:
            try:
                connection.sendall(_FIRST_BYTES)
                came_back = connection.recv(16)
            except OSError:
                came_back = b""
        return Answer(status=200 if came_back else 403)

    def close(self) -> None:
        """Close every kept connection."""
        for connection in self._open.values():
            connection.close()
        for http2 in self._open_http2.values():
            http2.close()
        self._open.clear()
        self._open_http2.clear()

    def message(self, probe: Probe) -> bytes:
        """Return the bytes of the request."""
        fill = self._filler(probe)
        lines = [f"{probe.method} {fill(probe.target)} HTTP/1.1"]
        if probe.host is not None:
            lines.append(f"Host: {probe.host}")
        lines += [f"{name}: {fill(value)}" for name, value in probe.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def header_list(self, probe: Probe) -> list[tuple[str, str]]:
        """Return the header list of the request over HTTP/2, which knows no capital names."""
        fill = self._filler(probe)
        head = [(":method", probe.method), (":scheme", probe.scheme), (":path", fill(probe.target))]
        if probe.method == "CONNECT":
            head = head[:1]
        if probe.host is not None:
            head.append((":authority", probe.host))
        return [*head, *((name.lower(), fill(value)) for name, value in probe.headers)]

    def _filler(self, probe: Probe) -> Callable[[str], str]:
        """Return what puts the probe's tokens where a text asks for them."""
        texts: Mapping[str, str] = {
            str(number): self.mint.token(spec) for number, spec in enumerate(probe.tokens)
        }
        return lambda text: _TOKEN.sub(lambda found: texts.get(found[1], found[0]), text)

    def _connect(self, place: Place, probe: Probe) -> socket.socket | None:
        """Return a new connection, its PROXY line sent and its handshake done."""
        family = socket.AF_INET6 if is_ipv6(probe.source) else socket.AF_INET
        connection = socket.socket(family)
        connection.settimeout(_SECONDS)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.bind((probe.source, 0))
            connection.connect(place)
            if probe.destination:
                connection.sendall(_proxy_line(connection, probe))
            if probe.peer != PLAINTEXT:
                context = self.identities.context(probe.peer)
                return context.wrap_socket(connection, server_hostname=probe.sni or None)
        except OSError:
            connection.close()
            return None
        return connection

    def _exchange(
        self,
        connection: socket.socket,
        key: _Kind,
        message: bytes,
        probe: Probe,
    ) -> Answer | None:
        """Send and read; keep the connection if it may be used again."""
        try:
            connection.sendall(message)
            head, rest = _read_head(connection)
            status = int(head[9:12])
            length = _LENGTH.search(head)
            has_body = probe.method != "HEAD" and status not in _BODILESS
            missing = int(length[1]) - len(rest) if length and has_body else 0
            while missing > 0:
                missing -= len(connection.recv(missing)) or missing
        except (OSError, ValueError, EOFError):
            connection.close()
            return None
        if _CLOSE.search(head) or probe.method == "CONNECT":
            connection.close()
        else:
            self._open[key] = connection
        details = _DETAILS.search(head)
        return Answer(status=status, why=details[1].decode("latin-1") if details else "")


def _read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the response head and what came of the body."""
    got = b""
    while True:
        head, mark, rest = got.partition(b"\r\n\r\n")
        if mark:
            return head + b"\r\n", rest
        piece = connection.recv(65536)
        if not piece:
            raise EOFError
        got += piece


def _proxy_line(connection: socket.socket, probe: Probe) -> bytes:
    """Return the PROXY protocol v1 line: the client, else the true source, and the destination."""
    address, _, port = probe.destination.rpartition(":")
    kind = "TCP6" if is_ipv6(probe.source) else "TCP4"
    source_port = connection.getsockname()[1]
    client = probe.client or probe.source
    return f"PROXY {kind} {client} {address.strip('[]')} {source_port} {port}\r\n".encode()
