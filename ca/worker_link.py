"""A signing worker's end of the line to the process that started it, on the worker's event loop."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import cast

from ca.worker_wire import Message, encode


class WorkerLink(asyncio.Protocol):
    """Messages there and back; `hear` is told of each, `lost` when the other process is gone."""

    def __init__(self, hear: Callable[[Message], None], lost: Callable[[], None]) -> None:
        """Tell `hear` and `lost`, on the loop."""
        self._hear = hear
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to speak."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Hear the lines that are whole."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._hear(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that the other process is gone."""
        self._transport = None
        self._lost()

    def send(self, message: Message) -> None:
        """Send a message; to a process that is gone nothing is sent."""
        if self._transport is not None:
            self._transport.write(encode(message))

    def close(self) -> None:
        """Hang up once everything is sent."""
        if self._transport is not None:
            self._transport.close()


async def open_link(
    pair: socket.socket, hear: Callable[[Message], None], lost: Callable[[], None]
) -> WorkerLink:
    """Return the link over `pair`, which is its own from now on."""
    loop = asyncio.get_running_loop()
    _, link = await loop.connect_accepted_socket(lambda: WorkerLink(hear, lost), pair)
    return link
