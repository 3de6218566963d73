"""Frames on a socket: a kind, a length, a payload; between the authorizer and its workers."""

from __future__ import annotations

import struct
import time
from socket import socket
from typing import Final

_HEADER: Final = struct.Struct("!cI")
# WHY no more: every call gets a fresh buffer of this size, and a large one comes from the system.
_CHUNK: Final = 16 * 1024


class PeerGone(Exception):
    """The other end closed the socket, or died."""


def send_frame(channel: socket, kind: bytes, payload: bytes, deadline: float | None = None) -> None:
    """Send one frame; `deadline` is on the monotonic clock.

    Raises:
        PeerGone: nobody is there any more.
        TimeoutError: the deadline passed; the socket is of no further use.
    """
    channel.settimeout(_left(deadline))
    try:
        channel.sendall(_HEADER.pack(kind, len(payload)) + payload)
    except TimeoutError:
        raise
    except OSError as exc:
        raise PeerGone(str(exc)) from exc


def receive_frame(channel: socket, deadline: float | None = None) -> tuple[bytes, bytes]:
    """Return the next frame's kind and payload; nothing may come behind it before it is answered.

    Raises:
        PeerGone: nobody is there any more, or something else came behind it.
        TimeoutError: the deadline passed; the socket is of no further use.
    """
    data = _receive(channel, deadline)
    while len(data) < _HEADER.size:
        data += _receive(channel, deadline)
    kind, length = _HEADER.unpack_from(data)
    whole = _HEADER.size + length
    # Nearly every answer comes in one piece.
    if len(data) == whole:
        return kind, data[_HEADER.size :]
    parts = bytearray(data)
    while len(parts) < whole:
        parts += _receive(channel, deadline)
    # WHY: what came unasked would be taken for the answer to the next question.
    if len(parts) > whole:
        raise PeerGone("more than one frame")
    return kind, bytes(parts[_HEADER.size :])


def _receive(channel: socket, deadline: float | None) -> bytes:
    channel.settimeout(_left(deadline))
    try:
        data = channel.recv(_CHUNK)
    except TimeoutError:
        raise
    except OSError as exc:
        raise PeerGone(str(exc)) from exc
    if not data:
        raise PeerGone("end of stream")
    return data


def _left(deadline: float | None) -> float | None:
    """Return the seconds left, or None for no limit."""
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
