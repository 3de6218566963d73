"""A gRPC server whose answers leave in one piece, and whose requests are taken in one.

grpclib writes an answer as three frames, each with a system call of its own, which is most of what
an answer costs, and which wakes the client three times. Here what is written in one turn of the
event loop is sent at its end, headers that come again are coded from memory, and a request that
comes whole is taken whole.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from grpclib.protocol import H2Protocol

from ca.remembered_headers import RememberingDecoder, RememberingEncoder
from ca.tolerant_server import TolerantProtocol, TolerantServer
from ca.whole_requests import WholeRequests


class GatheringServer(TolerantServer):
    """The server, on connections that gather."""

    def _protocol_factory(self) -> H2Protocol:
        """Return the protocol of one more connection.

        WHY a private name: grpclib has no public place where a transport could be replaced.
        """
        plain = super()._protocol_factory()
        return _GatheringProtocol(plain.handler, plain.config, plain.h2_config)


class _GatheringProtocol(TolerantProtocol):
    """The protocol over a transport that gathers, with a memory of header blocks."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to speak."""
        gathering = GatheringTransport(cast(asyncio.Transport, transport))
        super().connection_made(gathering)
        # WHY a private name: grpclib makes the connection itself. Nothing is coded on it yet.
        h2 = self.connection._connection
        h2.encoder, h2.decoder = RememberingEncoder(), RememberingDecoder(h2.decoder)
        self._whole = WholeRequests(self)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if not self._whole.take(data):
            super().data_received(data)


class GatheringTransport(asyncio.Transport):
    """A transport that sends what is written in one turn of the loop together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        """Send by `transport`."""
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` at the end of this turn of the loop."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(bytes(data))

    def close(self) -> None:
        """Send what waits, and hang up."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        self._waiting.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport knows of itself."""
        return self._transport.get_extra_info(name, default)

    def _flush(self) -> None:
        """Send what waits."""
        if self._waiting and not self._transport.is_closing():
            self._transport.write(b"".join(self._waiting))
        self._waiting.clear()
