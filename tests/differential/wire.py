"""Probes on the wire: a client of our own, for no library sends what a probe may say.

Connections are kept and used again, as long as the other side keeps them open.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.differential.identities import Identities, is_ipv6
from tests.differential.model import PLAINTEXT, Answer, Probe
from tests.differential.tokens import TokenMint

_SECONDS = 10.0
_TOKEN = re.compile(r"\{token(\d+)\}")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_DETAILS = re.compile(rb"\r\nx-details: *([^\r]*)", re.IGNORECASE)
_BODILESS = (204, 304)
# More than the TLS inspector must see to call a connection plaintext.
_FIRST_BYTES = b"differential trial\n"

Place = tuple[str, int]


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
    _open: dict[tuple[Place, str, str, str, str], socket.socket] = field(default_factory=dict)

    def ask(self, door: Door, probe: Probe) -> Answer:
        """Return the answer to one HTTP probe; a dead kept connection is opened anew."""
        place = door.ipv6 if is_ipv6(probe.source) else door.ipv4
        key = (place, probe.peer, probe.sni, probe.source, probe.destination)
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
        self._open.clear()

    def message(self, probe: Probe) -> bytes:
        """Return the bytes of the request."""
        texts: Mapping[str, str] = {
            str(number): self.mint.token(spec) for number, spec in enumerate(probe.tokens)
        }

        def fill(text: str) -> str:
            return _TOKEN.sub(lambda found: texts.get(found[1], found[0]), text)

        lines = [f"{probe.method} {fill(probe.target)} HTTP/1.1"]
        if probe.host is not None:
            lines.append(f"Host: {probe.host}")
        lines += [f"{name}: {fill(value)}" for name, value in probe.headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

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
        key: tuple[Place, str, str, str, str],
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
    """Return the PROXY protocol v1 line: the true source, and the destination of the probe."""
    address, _, port = probe.destination.rpartition(":")
    kind = "TCP6" if is_ipv6(probe.source) else "TCP4"
    source_port = connection.getsockname()[1]
    return f"PROXY {kind} {probe.source} {address.strip('[]')} {source_port} {port}\r\n".encode()
