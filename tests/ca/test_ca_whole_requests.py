"""A request taken in one piece leaves the state, and gets the bytes, that the long way gives."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest
from hpack import Encoder
from hypothesis import example, given, settings
from hypothesis import strategies as st
from talking import HEADERS, REQUEST, TALKS, Echo, held, state_of

from ca.gathered_writes import GatheringServer
from ca.whole_requests import WholeRequests

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS_FRAME, RST, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
ASKED = {
    "plain": HEADERS,
    "more": [*HEADERS, ("authorization", "Bearer x"), ("x-bin", "AAA")],
    "deadline": [*HEADERS, ("grpc-timeout", "9S")],
    "no such deadline": [*HEADERS, ("grpc-timeout", "9 years")],
    "no such method": [*HEADERS[:2], (":path", "/test/No"), *HEADERS[3:]],
    "get": [(":method", "GET"), *HEADERS[1:]],
    "no te": [each for each in HEADERS if each[0] != "te"],
    "no method": HEADERS[1:],
    "length that holds": [*HEADERS, ("content-length", "13")],
    "length that fails": [*HEADERS, ("content-length", "4000")],
    "informational": [(":status", "100"), *HEADERS],
    "response": [(":status", "200"), *HEADERS],
    "not ascii": [*HEADERS, (b"x-odd", b"\xff")],
    "not base64": [*HEADERS, ("x-odd-bin", "A")],
    "endless deadline": [*HEADERS, ("grpc-timeout", "9" * 400 + "H")],
}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


@dataclass
class Client:
    """What a client says, in bytes."""

    encoder: Encoder = field(default_factory=Encoder)
    stream: int = -1

    def call(self, what: str, how: str, size: int, times: int = 1) -> bytes:
        """Return a request, the next of this connection unless `how` says otherwise."""
        self.stream += 2
        csr = {0: "hold", 1: "no"}.get(size, "x" * size)
        content = REQUEST(csr=csr, validity_duration=times).SerializeToString()
        prefix = b"\1" if how == "compressed" else b"\0"
        off = {"too short": 1, "too long": -1}.get(how, 0)
        data = prefix + struct.pack(">I", len(content) + off) + content
        block = self.encoder.encode(ASKED[what])
        return self._frames(how, block, data)

    def _frames(self, how: str, block: bytes, data: bytes) -> bytes:
        """Return the frames of a request."""
        odd = {"even": self.stream + 1, "lower": max(self.stream - 2, 1)}
        stream = odd.get(how, self.stream) | (1 << 31 if how == "reserved" else 0)
        begun, rest = frame(HEADERS_FRAME, 0, stream, block[:1]), frame(9, 4, stream, block[1:])
        heads = {
            "padded headers": frame(HEADERS_FRAME, 0xC, stream, b"\2" + block + b"\0\0"),
            "priority": frame(HEADERS_FRAME, 0x24, stream, b"\0\0\0\0\7" + block),
            "continued": begun + rest,
            "ended by headers": frame(HEADERS_FRAME, 5, stream, block),
        }
        half, open_data = len(data) // 2, frame(DATA, 0, stream, data)
        ends = {
            "ended by headers": b"",
            "two pieces": frame(DATA, 0, stream, data[:half]) + frame(DATA, 1, stream, data[half:]),
            "not ended": open_data,
            "padded data": frame(DATA, 9, stream, b"\1" + data + b"\0"),
            "trailers": open_data + frame(HEADERS_FRAME, 5, stream, b"\0\1x\0"),
            "other stream": frame(DATA, 1, stream + 2, data),
            "two messages": frame(DATA, 1, stream, data + data),
            "over a frame": frame(DATA, 1, stream, data + bytes(16_400)),
        }
        head = heads.get(how, frame(HEADERS_FRAME, 4, stream, block))
        return head + ends.get(how, frame(DATA, 1, stream, data))

    def other(self, what: str) -> bytes:
        """Return something that is no request."""
        return {
            "ping": frame(PING, 0, 0, b"12345678"),
            "settings": frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 70_000)),
            "small windows": frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 20)),
            "window": frame(WINDOW, 0, 0, struct.pack(">I", 1000)),
            "reset": frame(RST, 0, max(self.stream, 1), struct.pack(">I", 8)),
            "reset before": frame(RST, 0, max(self.stream - 2, 1), struct.pack(">I", 8)),
            "goaway": frame(GOAWAY, 0, 0, bytes(8)),
            "unknown": frame(0x77, 3, 1, b"abc"),
            "data on nothing": frame(DATA, 1, 0, b"abc"),
            "garbage": b"\0\0\1\1\4\0\0\0\1\xff" * 2,
        }[what]


HOW = [
    *("plain", "compressed", "too short", "too long", "even", "lower", "reserved", "continued"),
    *("padded headers", "priority", "ended by headers", "two pieces", "not ended", "padded data"),
    *("trailers", "other stream", "two messages", "over a frame"),
]
OTHER = [
    *("ping", "settings", "small windows", "window", "reset", "reset before", "goaway"),
    *("unknown", "data on nothing", "garbage"),
]
_PLAIN = st.tuples(st.sampled_from(["plain", "more"]), st.just("plain"), st.integers(0, 400))
_ODD = st.tuples(st.sampled_from(list(ASKED)), st.sampled_from(HOW), st.integers(0, 400))
_STEPS = st.lists(st.one_of(_PLAIN, _PLAIN, _ODD, st.sampled_from(OTHER)), max_size=12)


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        """Keep `data`."""
        self.written += bytes(data)

    def is_closing(self) -> bool:
        """Return whether it was closed."""
        return self.is_closed

    def close(self) -> None:
        """Hang up."""
        self.is_closed = True

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        """Return that nothing is known."""
        return default


async def _heard(pieces: list[bytes]) -> tuple[bytes, list[int], list[Any]]:
    """Let a server hear pieces, one after the other; return its bytes, its streams, its state."""
    server = GatheringServer([Echo()])
    protocol, wire = server._protocol_factory(), Wire()
    protocol.connection_made(wire)
    state: list[Any] = []
    for piece in pieces:
        if wire.is_closed:
            break
        protocol.data_received(piece)
        between = sorted(protocol.processor.streams)
        for _ in range(8):
            await asyncio.sleep(0)
        state.append((between, sorted(protocol.processor.streams)))
    state.append(state_of(protocol.connection))
    if not wire.is_closed:
        protocol.connection_lost(None)
    await protocol.handler.wait_closed()
    return wire.written, sorted(protocol.processor.streams), state


def _both(monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]) -> int:
    """Hold both ways against each other; return how many bytes took the short one."""
    plain, taken = WholeRequests.take, [0]

    def watched(self: WholeRequests, data: bytes) -> bool:
        is_taken = plain(self, data)
        taken[0] += len(data) * is_taken
        return is_taken

    with monkeypatch.context() as patch:
        patch.setattr(WholeRequests, "take", watched)
        short = asyncio.run(_heard(pieces))
        patch.setattr(WholeRequests, "take", lambda *_: False)
        assert asyncio.run(_heard(pieces)) == short
    return taken[0]


def _hello() -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0, b"")


@settings(deadline=None)
@given(steps=_STEPS, cuts=st.lists(st.integers(0, 3000), max_size=3), together=st.integers(1, 3))
@example(steps=[("plain", "plain", 9)] * 2 + [("plain", "plain", 0)] * 105, cuts=[], together=1)
@example(steps=[("plain", "plain", 0)] * 4 + ["data on nothing"], cuts=[], together=3)
def test_whatever_comes_is_answered_as_by_the_long_way(steps, cuts, together):
    """Requests good and bad, between other frames, cut anywhere: same bytes, same state."""
    client = Client()
    said = [client.other(each) if isinstance(each, str) else client.call(*each) for each in steps]
    pieces = [_hello()]
    for begin in range(0, len(said), together):
        pieces.append(b"".join(said[begin : begin + together]))
    for cut in cuts:
        place = cut % len(pieces)
        at = cut % (len(pieces[place]) + 1)
        pieces[place : place + 1] = [pieces[place][:at], pieces[place][at:]]
    with pytest.MonkeyPatch.context() as monkeypatch:
        _both(monkeypatch, [each for each in pieces if each])


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("what", ASKED)
def test_each_kind_of_request_between_plain_ones(monkeypatch, what, how):
    """A request of every kind, sent three times so that its headers are known, changes nothing."""
    client = Client()
    calls = [("plain", "plain", 30)] * 3 + [(what, how, 5)] * 3 + [("plain", "plain", 30)] * 2
    assert _both(monkeypatch, [_hello(), *(client.call(*each) for each in calls)]) > 0


@pytest.mark.parametrize("at", range(1, 60))
def test_a_request_that_comes_in_two_pieces(monkeypatch, at):
    """Wherever a known request is cut, and with another one behind it, it is the same request."""
    client = Client()
    plain = [client.call("plain", "plain", 8) for _ in range(3)]
    last = client.call("plain", "plain", 8) + client.call("more", "plain", 8)
    assert _both(monkeypatch, [_hello(), *plain, last[:at], last[at:]]) > 0


def test_windows_are_given_back(monkeypatch):
    """Megabytes of requests go on as long as the long way lets them: its updates come in time."""
    client = Client()
    calls = [client.call("plain", "plain", 15_000, 0) for _ in range(400)]
    assert _both(monkeypatch, [_hello(), *calls]) > 5_000_000


@pytest.mark.parametrize("talking", TALKS)
def test_talks_over_a_socket_are_the_same(monkeypatch, talking):
    """A client that speaks by h2 hears the same bytes, and the server knows the same."""
    short = asyncio.run(held(talking))
    monkeypatch.setattr(WholeRequests, "take", lambda *_: False)
    assert asyncio.run(held(talking)) == short
