"""Envoy's administration interface, on a Unix socket that nobody else may open."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

# BUDGET: it answers from memory, on a thread that serves nothing else.
_SECONDS: Final = 2.0
_BASE: Final = "http://envoy"


class EnvoyAdmin:
    """What is asked of one Envoy. What it does not answer counts as "no"."""

    def __init__(self, socket: Path, stat_prefix: str) -> None:
        """Talk to the Envoy behind the socket, about the listener of that prefix."""
        transport = httpx.HTTPTransport(uds=str(socket))
        self._client = httpx.Client(transport=transport, base_url=_BASE, timeout=_SECONDS)
        self._prefix = f"http.{stat_prefix}"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self._client.close()

    def is_live(self) -> bool:
        """Whether its listeners answer."""
        try:
            return self._client.get("/ready").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def let_port_go(self) -> bool:
        """Have it take no new connection; return whether it was told so, see `has_port`."""
        return self._order("/drain_listeners")

    def has_port(self) -> bool:
        """Whether it may still be connected to: its threads stop first, and then the port goes."""
        return not self._number("listener_manager.listener_stopped")

    def send_away(self) -> bool:
        """Have it answer GOAWAY from now on; return whether it does."""
        return self._order("/drain_listeners?graceful&skip_exit")

    def connections(self) -> int:
        """Return how many clients are connected; 0 where it does not say."""
        return self._number(f"{self._prefix}.downstream_cx_active")

    def refused(self) -> int:
        """Return how many calls it refused since more were open than can be answered in time."""
        limiter = f"{self._prefix}.adaptive_concurrency.gradient_controller"
        return self._number(f"{limiter}.rq_blocked")

    def _number(self, name: str) -> int:
        try:
            answer = self._client.get("/stats", params={"filter": f"^{name}$"})
        except httpx.HTTPError:
            return 0
        # One line, `name: value`.
        number = answer.text.rpartition(":")[2].strip()
        return int(number) if number.isdecimal() else 0

    def _order(self, path: str) -> bool:
        try:
            return self._client.post(path).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
