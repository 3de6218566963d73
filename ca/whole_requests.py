"""A unary request in one piece: its headers and its message taken together.

Theory of operation. h2 reads a request as two frames, with objects for frames, flags and events,
and grpclib makes queues for a message that may still come: a third of the function calls that a
certificate takes. Where a request has come whole (one frame of headers whose block came before, one
of data that ends the stream and holds one message) both are told at once what they would have come
to; whatever else comes goes their way.

INVARIANT: what h2 and grpclib know afterwards is what they know after the long way.

Spec: RFC 9113 §4.1 (frames), §5.1 (states), §6.9 (windows); gRPC over HTTP/2, "Requests".
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any, Final, TypeAlias

from grpclib.protocol import H2Protocol, Stream
from h2.connection import AllowedStreamIDs, ConnectionState
from h2.stream import StreamState

from ca.tolerant_server import HEADER_ENCODING

_DATA, _HEADERS = 0x0, 0x1
_END_STREAM, _END_HEADERS = 0x1, 0x4
_FRAME: Final = struct.Struct(">IBI")
_HEAD_BYTES: Final = _FRAME.size
_RESERVED: Final = 1 << 31
_PREFIX_BYTES: Final = 5
# What h2 looks at in a request's headers beside handing them on.
_LOOKED_AT: Final = frozenset({b":status", b"content-length"})

_Fields: TypeAlias = list[tuple[str, str]]


class WholeRequests:
    """The requests of one connection that come in one piece."""

    def __init__(self, protocol: H2Protocol) -> None:
        """Take those of `protocol`, whose connection is made."""
        self._protocol = protocol
        # By their blocks: what the decoder remembers of one, and that as grpclib has it.
        self._fields: dict[bytes, tuple[object, _Fields | None]] = {}

    def take(self, data: bytes) -> bool:
        """Begin the call that `data` is, all of it; return whether it was begun.

        WHY alone: of what h2 reads together nothing begins if one frame of it is an error.
        """
        found = _frames_of(data)
        if found is None:
            return False
        number, block, content = found
        # WHY private names: neither library has a public way to be told of a request as a whole.
        h2 = self._protocol.connection._connection
        if not self._can_begin(h2, number, len(content)):
            return False
        fields = self._known_fields(h2.decoder, block)
        if fields is None:
            return False
        _begin_in_h2(h2, number, len(content))
        self._begin_in_grpclib(number, content, fields)
        return True

    def _can_begin(self, h2: Any, number: int, size: int) -> bool:
        """Return whether h2 would begin a call with so much data, without a word to the client."""
        buffer, settings = h2.incoming_buffer, h2.local_settings
        return bool(
            not (buffer._data or buffer._headers_buffer or buffer._preamble_len)
            and h2.state_machine.state is ConnectionState.SERVER_OPEN
            and not self._protocol.connection.is_closing()
            # RFC 9113 §5.1.1: a client's streams are odd, each greater than all before.
            and number % 2
            and number > h2.highest_inbound_stream_id
            and size <= h2.max_inbound_frame_size
            and size <= min(h2.inbound_flow_control_window, settings.initial_window_size)
            and h2.open_inbound_streams < settings.max_concurrent_streams
        )

    def _known_fields(self, decoder: Any, block: bytes) -> _Fields | None:
        """Return the headers of a block that came before, None for one that goes the long way."""
        headers = decoder.recall(block)
        if headers is None:
            return None
        known = self._fields.get(block)
        if known is None or known[0] is not headers:
            if len(self._fields) >= decoder.MAX_BLOCKS:
                self._fields.clear()
            known = self._fields[block] = headers, _readable(headers)
        return known[1]

    def _begin_in_grpclib(self, number: int, content: bytes, fields: _Fields) -> None:
        """Tell grpclib of the call."""
        protocol, connection = self._protocol, self._protocol.connection
        stream = _WholeStream(connection, number, content)
        release = protocol.processor.register(stream)
        protocol.handler.accept(stream, list(fields), release)
        stream.data_received = len(content)
        connection.data_received += len(content)
        connection.last_data_received = stream.created
        connection.streams_succeeded += 1


def _frames_of(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Return stream, header block and content of the request that `data` is, or None."""
    if len(data) < 2 * _HEAD_BYTES + _PREFIX_BYTES:
        return None
    kind, flags, number = _FRAME.unpack_from(data)
    middle = _HEAD_BYTES + (kind >> 8)
    # No padding, no priority, and the whole block: other flags change what the payload is.
    if kind & 0xFF != _HEADERS or flags != _END_HEADERS or len(data) < middle + _HEAD_BYTES:
        return None
    # RFC 9113 §4.1: the first bit of a stream's number is reserved, "and MUST be ignored".
    if number & _RESERVED:
        return None
    kind, flags, same = _FRAME.unpack_from(data, middle)
    begin = middle + _HEAD_BYTES
    if kind & 0xFF != _DATA or flags != _END_STREAM or same != number:
        return None
    content = data[begin:]
    if len(content) != kind >> 8:
        return None
    # gRPC: a byte that tells of compression, four of length, and the message.
    if len(content) != _PREFIX_BYTES + int.from_bytes(content[1:_PREFIX_BYTES]):
        return None
    return number, bytes(data[_HEAD_BYTES:middle]), content


def _begin_in_h2(h2: Any, number: int, size: int) -> None:
    """Tell h2 of a stream that the client has begun and ended with so many bytes of data."""
    stream = h2._begin_new_stream(number, AllowedStreamIDs.ODD)
    machine = stream.state_machine
    machine.client = False
    machine.headers_received = True
    machine.state = StreamState.HALF_CLOSED_REMOTE
    h2._inbound_flow_control_window_manager.window_consumed(size)
    stream._inbound_window_manager.window_consumed(size)
    stream._actual_content_length = size


def _readable(headers: Any) -> _Fields | None:
    """Return headers as grpclib gets them, None for those that h2 has a word to say of."""
    if any(name in _LOOKED_AT for name, _ in headers):
        return None
    return [
        (name.decode(HEADER_ENCODING), value.decode(HEADER_ENCODING)) for name, value in headers
    ]


class _WholeStream(Stream):
    """grpclib's stream of a request whose one message is here."""

    def __init__(self, connection: Any, number: int, content: bytes) -> None:
        # WHY not the parent's way: it makes a queue and events for what is still to come.
        self.connection = connection
        self._h2_connection = connection._connection
        self._transport = connection._transport
        self.wrapper = None
        self.id = number
        self.buffer: Any = _WholeContent(content)
        self.window_updated = asyncio.Event()
        self.headers = self.trailers = None
        connection.streams_started += 1
        self.created = connection.last_stream_created = time.monotonic()

    async def recv_data(self, size: int) -> bytes:
        """Return the next `size` bytes; the first that are read give the window back."""
        if size and (unacked := self.buffer.unacked_size()):
            self._give_back(unacked)
        part: bytes = self.buffer.read(size)
        return part

    def _give_back(self, size: int) -> None:
        """Give so much of the windows back, which mostly means to note it."""
        assert self.id is not None
        h2: Any = self._h2_connection
        known = h2.streams.get(self.id)
        if known is None or known.state_machine.state is not StreamState.HALF_CLOSED_REMOTE:
            self.connection.ack(self.id, size)
            return
        managers = (h2._inbound_flow_control_window_manager, known._inbound_window_manager)
        for each in managers:
            # h2 tells the client at half a window, or when none is left.
            due = each._bytes_processed + size >= each.max_window_size // 2
            if due or not each.current_window_size:
                self.connection.ack(self.id, size)
                return
        for each in managers:
            each._bytes_processed += size


class _WholeContent:
    """The data of a request, as far as it is not read."""

    __slots__ = ("_at", "_content", "_unacked")

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._unacked = len(content)
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, none at the end."""
        begin, self._at = self._at, self._at + size
        return self._content[begin : self._at]

    def unacked_size(self) -> int:
        """Return how much the client was not given back yet; from now on it is."""
        size, self._unacked = self._unacked, 0
        return size
