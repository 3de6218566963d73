"""Unary gRPC calls over a plain connection, as little as asks a server: the client of the load.

gRPC's own client takes three times as long for a call, on the cores that the servers are measured
on. Nothing of an answer is decoded but its frames and its message; a stream that does not end as
it should is an error.

Spec: RFC 9113 §4.1 (frames), §6; RFC 7541 §6.1 and §6.2.1; gRPC over HTTP/2, "Requests".
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

_HEAD_BYTES: Final = 9
_READ_BYTES: Final = 1 << 16
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM: Final = 0x1
_ACK: Final = 0x1
_END_HEADERS: Final = 0x4
_MAX_WINDOW: Final = 2**31 - 1
_FIRST_WINDOW: Final = 65_535
_INITIAL_WINDOW_SIZE: Final = 4
# Indexed fields of the static table: `:method: POST` and `:scheme: http`.
_POST_HTTP: Final = b"\x83\x86"
_INDEXED: Final = 0x80
_TO_BE_INDEXED: Final = b"\x40"
_DYNAMIC: Final = 62


class GrpcConnection:
    """One connection; a call after the other."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str
    ) -> None:
        """Greet the server; every call is of `method`, a path."""
        self._reader = reader
        self._writer = writer
        self._stream = -1
        self._unread = b""
        fields = (
            (":path", method),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        )
        self._headers = _POST_HTTP + b"".join(_literal(*field) for field in fields)
        # From the second call on the fields are known; the first stands farthest back.
        self._indexed = _POST_HTTP + bytes(_INDEXED | _DYNAMIC + back for back in (3, 2, 1, 0))
        windows = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _MAX_WINDOW)
        more = struct.pack(">I", _MAX_WINDOW - _FIRST_WINDOW)
        hello = _PREFACE + _frame(_SETTINGS, 0, 0, windows) + _frame(_WINDOW_UPDATE, 0, 0, more)
        writer.write(hello)

    async def call(self, message: bytes) -> bytes:
        """Return the message that answers `message`.

        Raises:
            ConnectionError: there is none.
        """
        self._stream += 2
        framed = b"\0" + struct.pack(">I", len(message)) + message
        self._writer.write(
            _frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
            + _frame(_DATA, _END_STREAM, self._stream, framed)
        )
        self._headers = self._indexed
        body = b""
        while True:
            kind, flags, stream, payload = await self._next_frame()
            if kind == _DATA:
                body += payload
            if kind in (_DATA, _HEADERS) and stream == self._stream and flags & _END_STREAM:
                break
        # A refusal has no message: its status stands in the trailers alone.
        if len(body) <= 5 or len(body) != 5 + int.from_bytes(body[1:5]):
            raise ConnectionError("the call was not answered with a message")
        return body[5:]

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _next_frame(self) -> tuple[int, int, int, bytes]:
        """Return the next frame: kind, flags, stream, payload; pings and settings are answered."""
        # An answer's frames come in one piece mostly, and are read in one.
        while True:
            unread = self._unread
            if len(unread) >= _HEAD_BYTES:
                end = _HEAD_BYTES + int.from_bytes(unread[:3])
                if len(unread) >= end:
                    break
            more = await self._reader.read(_READ_BYTES)
            if not more:
                raise ConnectionError("the server hung up")
            self._unread += more
        kind, flags, stream = unread[3], unread[4], int.from_bytes(unread[5:_HEAD_BYTES])
        payload, self._unread = unread[_HEAD_BYTES:end], unread[end:]
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._writer.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        if kind in (_RST_STREAM, _GOAWAY):
            raise ConnectionError("the server ended the call")
        return kind, flags, stream, payload


async def connect(port: int, method: str) -> GrpcConnection:
    """Return a connection to a server on loopback."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    return GrpcConnection(reader, writer, method)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """Return a header as a literal to remember, neither part in Huffman's code."""
    parts = (name.encode(), value.encode())
    return _TO_BE_INDEXED + b"".join(bytes((len(part),)) + part for part in parts)
