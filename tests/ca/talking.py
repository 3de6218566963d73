"""Talks of a client with a server of ours over HTTP/2, and what both know afterwards."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes

from ca.gathered_writes import GatheringServer
from ca.signing_endpoints import listen_on
from ca.whole_answers import send_answer
from ca.wire_messages import ISTIO_CA

REQUEST, RESPONSE = ISTIO_CA["IstioCertificateRequest"], ISTIO_CA["IstioCertificateResponse"]
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test/Echo"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Echo:
    """Answers a CSR with itself, as often as its lifetime says; refuses `no`."""

    def __init__(self) -> None:
        self.held: list[asyncio.Event] = []
        self.servers: list[Any] = []

    def __mapping__(self) -> dict[str, Handler]:
        return {"/test/Echo": Handler(self._echo, Cardinality.UNARY_UNARY, REQUEST, RESPONSE)}

    async def _echo(self, stream: Any) -> None:
        request = await stream.recv_message()
        if request.csr == "no":
            raise GRPCError(Status.PERMISSION_DENIED, "no")
        if request.csr == "hold":
            self.held.append(asyncio.Event())
            await self.held[-1].wait()
        await send_answer(stream, RESPONSE(cert_chain=[request.csr] * request.validity_duration))


@dataclass
class Talk:
    """A client on one connection: what it asks, and every byte that came back."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    h2: H2Connection
    received: bytes = b""
    ended: set[int] = field(default_factory=set)
    bodies: dict[int, bytes] = field(default_factory=dict)

    def ask(self, csr: str, times: int = 1, *, ends: bool = True, is_sent: bool = True) -> int:
        """Send a request, or leave it to be sent; return its stream."""
        content = REQUEST(csr=csr, validity_duration=times).SerializeToString()
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, HEADERS)
        self.h2.send_data(stream, b"\0" + struct.pack(">I", len(content)) + content, ends)
        if is_sent:
            self.writer.write(self.h2.data_to_send())
        return stream

    async def take(self, until: Callable[[], bool], *, acks: bool = True) -> None:
        """Read until something holds; give back the windows if `acks`."""
        while not until():
            data = await asyncio.wait_for(self.reader.read(1 << 16), 10)
            assert data
            self.received += data
            for event in self.h2.receive_data(data):
                if isinstance(event, DataReceived):
                    stream = event.stream_id
                    self.bodies[stream] = self.bodies.get(stream, b"") + event.data
                    if acks and event.flow_controlled_length:
                        self.h2.increment_flow_control_window(event.flow_controlled_length)
                if isinstance(event, StreamEnded | StreamReset):
                    self.ended.add(event.stream_id)
            self.writer.write(self.h2.data_to_send())


async def _plain(talk: Talk, _echo: Echo) -> None:
    for number in range(40):
        stream = talk.ask("x" * (number * 37), number % 4)
        await talk.take(lambda stream=stream: stream in talk.ended)


async def _at_once(talk: Talk, _echo: Echo) -> None:
    asked = {talk.ask("x" * 400, number % 3 + 1, is_sent=False) for number in range(30)}
    talk.writer.write(talk.h2.data_to_send())
    await talk.take(lambda: asked <= talk.ended)


async def _refused_between(talk: Talk, _echo: Echo) -> None:
    for csr in ("a", "no", "b", "no", "no", "c"):
        stream = talk.ask(csr)
        await talk.take(lambda stream=stream: stream in talk.ended)


async def _longer_than_a_frame(talk: Talk, _echo: Echo) -> None:
    for times in (1, 15, 16, 17, 40):
        stream = talk.ask("y" * 1018, times)
        await talk.take(lambda stream=stream: stream in talk.ended)


async def _out_of_window(talk: Talk, _echo: Echo) -> None:
    """The connection's window runs out: 65,535 bytes without one given back."""
    for _ in range(5):
        stream = talk.ask("z" * 1000, 13)
        if stream == 9:
            talk.h2.increment_flow_control_window(30_000)
            talk.writer.write(talk.h2.data_to_send())
        await talk.take(lambda stream=stream: stream in talk.ended, acks=False)


async def _small_windows(talk: Talk, _echo: Echo) -> None:
    talk.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 100})
    for size in (10, 90, 91):
        stream = talk.ask("w" * size)
        await talk.take(lambda stream=stream: stream in talk.ended)
    stream = talk.ask("w" * 300)
    await talk.take(lambda: len(talk.bodies.get(stream, b"")) == 100)
    talk.h2.increment_flow_control_window(1000, stream)
    talk.writer.write(talk.h2.data_to_send())
    await talk.take(lambda: stream in talk.ended)


async def _smaller_table(talk: Talk, _echo: Echo) -> None:
    talk.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: 0})
    for _ in range(3):
        stream = talk.ask("a")
        await talk.take(lambda stream=stream: stream in talk.ended)


async def request_not_at_its_end(talk: Talk, echo: Echo) -> None:
    """Send a request whose end does not come, and another one."""
    stream = talk.ask("a", ends=False)
    await talk.take(lambda: stream in talk.ended or b"grpc-status" in talk.received)
    again = talk.ask("b")
    await talk.take(lambda: again in talk.ended)


async def _reset_meanwhile(talk: Talk, echo: Echo) -> None:
    gone, kept = talk.ask("hold"), talk.ask("hold")
    while len(echo.held) < 2:
        await asyncio.sleep(0)
    talk.h2.reset_stream(gone)
    talk.writer.write(talk.h2.data_to_send())
    ping = talk.ask("a")
    await talk.take(lambda: ping in talk.ended)
    for event in echo.held:
        event.set()
    await talk.take(lambda: kept in talk.ended)


TALKS = [
    *(_plain, _at_once, _refused_between, _longer_than_a_frame, _out_of_window),
    *(_small_windows, _smaller_table, request_not_at_its_end, _reset_meanwhile),
]


async def held(talking: Callable[[Talk, Echo], Any]) -> tuple[bytes, dict[int, bytes], Any]:
    """Hold a talk; return the bytes of the server, the bodies, and what it knows of the streams."""
    echo, listener = Echo(), listen_on("127.0.0.1:0")
    server = _WatchedServer([echo])
    echo.servers.append(server)
    await server.start(sock=listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
    client = H2Connection(H2Configuration(client_side=True))
    client.initiate_connection()
    writer.write(client.data_to_send())
    talk = Talk(reader, writer, client)
    try:
        # So that every talk begins with the same table and settings.
        await talk.take(lambda: talk.h2.remote_settings.initial_window_size > 0 and talk.received)
        await talking(talk, echo)
        [protocol] = server.protocols
        state = state_of(protocol.connection)
    finally:
        writer.close()
        server.close()
        await server.wait_closed()
    return talk.received, talk.bodies, state


class _WatchedServer(GatheringServer):
    """Shows its connections."""

    def __init__(self, services: list[Any]) -> None:
        super().__init__(services)
        self.protocols: list[Any] = []

    def _protocol_factory(self) -> Any:
        self.protocols.append(super()._protocol_factory())
        return self.protocols[-1]


def state_of(connection: Any) -> list[Any]:
    """Return what h2 and grpclib know after a talk."""
    h2 = connection._connection
    return [
        (h2.state_machine.state, h2.outbound_flow_control_window),
        (h2.highest_inbound_stream_id, dict(h2._closed_streams), bytes(h2._data_to_send)),
        dict(vars(h2._inbound_flow_control_window_manager)),
        [(number, _stream_of(each)) for number, each in h2.streams.items()],
        h2.open_inbound_streams,
        list(h2.encoder.header_table.dynamic_entries),
        list(h2.decoder.header_table.dynamic_entries),
        {name: value for name, value in vars(connection).items() if isinstance(value, int)},
    ]


def _stream_of(stream: Any) -> dict[str, Any]:
    """Return all that h2 knows of a stream."""
    known = {name: value for name, value in vars(stream).items() if name != "config"}
    for name in ("state_machine", "_inbound_window_manager"):
        known[name] = dict(vars(known[name]))
    return known
