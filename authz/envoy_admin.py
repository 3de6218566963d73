"""Envoy's administration interface, on a Unix socket that nobody else may open."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

# BUDGET: it answers from memory, on a thread that serves nothing else.
_SECONDS: Final = 2.0


class EnvoyAdmin:
    """What is asked of one Envoy. What it does not answer counts as "no". Safe from threads."""

    def __init__(self, path: Path, stat_prefix: str) -> None:
        """Talk to the Envoy behind the socket, about the listener of that prefix."""
        self._path = path
        self._prefix = f"http.{stat_prefix}"

    def is_live(self) -> bool:
        """Whether its listeners answer."""
        return self._ask("GET", "/ready") is not None

    def let_port_go(self) -> bool:
        """Have it take no new connection; return whether it was told so, see `has_port`."""
        return self._ask("POST", "/drain_listeners") is not None

    def has_port(self) -> bool:
        """Whether it may still be connected to: its threads stop first, and then the port goes."""
        return not self._number("listener_manager.listener_stopped")

    def send_away(self) -> bool:
        """Have it answer GOAWAY from now on; return whether it does."""
        return self._ask("POST", "/drain_listeners?graceful&skip_exit") is not None

    def connections(self) -> int:
        """Return how many clients are connected; 0 where it does not say."""
        return self._number(f"{self._prefix}.downstream_cx_active")

    def refused(self) -> int:
        """Return how many calls it refused since more were open than can be answered in time."""
        limiter = f"{self._prefix}.adaptive_concurrency.gradient_controller"
        return self._number(f"{limiter}.rq_blocked")

    def _number(self, name: str) -> int:
        answer = self._ask("GET", "/stats", {"filter": f"^{name}$"}) or ""
        # One line, `name: value`.
        number = answer.rpartition(":")[2].strip()
        return int(number) if number.isdecimal() else 0

    def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None) -> str | None:
        """Return the text of a good answer, None where another one comes or none does."""
        target = f"{path}?{urlencode(query)}" if query else path
        with closing(_UnixConnection(self._path)) as connection:
            try:
                connection.request(method, target)
                answer = connection.getresponse()
                text = answer.read().decode("utf-8", "replace")
            except (OSError, HTTPException):
                return None
        return text if answer.status == HTTPStatus.OK else None


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_SECONDS)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_SECONDS)
        self.sock.connect(self._path)
