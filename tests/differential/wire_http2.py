"""A probe over HTTP/2: the header list as it is told, right or wrong."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from tests.differential.model import Answer

HeaderList = Sequence[tuple[str, str]]

_DETAILS = b"x-details"


class Http2Connection:
    """One connection, one stream at a time; nothing of ours is checked before it is sent."""

    def __init__(self, connection: socket.socket) -> None:
        """Begin HTTP/2 by prior knowledge on a connected socket."""
        self._socket = connection
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self._h2.initiate_connection()

    def ask(self, headers: HeaderList) -> Answer | None:
        """Return the answer, of status 0 when the stream was reset; None on a dead connection."""
        try:
            stream = self._h2.get_next_available_stream_id()
            encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            self._h2.send_headers(stream, encoded, end_stream=True)
            self._socket.sendall(self._h2.data_to_send())
            # A tunnel that is let through stays open.
            return self._read(stream, is_tunnel=(":method", "CONNECT") in headers)
        except (OSError, h2.exceptions.ProtocolError):
            return None

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _read(self, stream: int, *, is_tunnel: bool) -> Answer | None:
        found: Answer | None = None
        while True:
            data = self._socket.recv(65536)
            if not data:
                return None
            for event in self._h2.receive_data(data):
                if isinstance(event, h2.events.ConnectionTerminated):
                    return None
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    found = _answer(event)
                    if is_tunnel:
                        return found
                if isinstance(event, h2.events.StreamReset):
                    return found or Answer(status=0, why=f"reset by {event.error_code}")
                if isinstance(event, h2.events.StreamEnded):
                    return found
            self._socket.sendall(self._h2.data_to_send())


def _answer(event: h2.events.ResponseReceived) -> Answer:
    fields = dict(event.headers or ())
    return Answer(status=int(fields[b":status"]), why=fields.get(_DETAILS, b"").decode("latin-1"))
