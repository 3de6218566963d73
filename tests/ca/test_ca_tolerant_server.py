"""What one call brings does not end the connection of others, and each call has an end."""

from __future__ import annotations

import asyncio
import struct

import pytest
from talking import HEADERS, REQUEST, Echo, Talk, held

UNKNOWN = struct.pack(">IBI", 3 << 8 | 0x77, 3, 1) + b"abc"
ANSWERED = {
    "plain": HEADERS,
    "not ascii": [*HEADERS, (b"x-odd", b"\xff")],
    "metadata": [*HEADERS, ("x-odd-bin", "AAAA")],
}
RESET = {
    "not base64": [*HEADERS, ("x-odd-bin", "A")],
    "no method": HEADERS[1:],
    "no path": [each for each in HEADERS if each[0] != ":path"],
    "endless deadline": [*HEADERS, ("grpc-timeout", "9" * 400 + "H")],
}


@pytest.mark.parametrize("name", [*ANSWERED, *RESET])
def test_odd_calls_between_others(name):
    """Each call ends, with its message or a reset; the one that is held meanwhile is answered."""
    headers = ANSWERED.get(name) or RESET[name]

    async def talking(talk: Talk, echo: Echo) -> None:
        talk.h2.config.validate_outbound_headers = False
        kept = talk.ask("hold")
        content = REQUEST(csr="odd", validity_duration=1).SerializeToString()
        asked = []
        # The first time by the libraries, later in one piece.
        for _ in range(3):
            stream = talk.h2.get_next_available_stream_id()
            talk.h2.send_headers(stream, headers)
            talk.h2.send_data(stream, b"\0" + struct.pack(">I", len(content)) + content, True)
            talk.writer.write(UNKNOWN)
            await talk.writer.drain()
            talk.writer.write(talk.h2.data_to_send())
            await talk.take(lambda stream=stream: stream in talk.ended)
            asked.append(stream)
        echo.held[0].set()
        await talk.take(lambda: kept in talk.ended)
        assert kept in talk.bodies
        assert [stream in talk.bodies for stream in asked] == [name in ANSWERED] * 3

    asyncio.run(held(talking))


def test_a_server_that_ends_resets_nothing():
    """A call under way when the server ends is hung up on with the connection, and tried again."""

    async def talking(talk: Talk, echo: Echo) -> None:
        stream = talk.ask("hold")
        while not echo.held:
            await asyncio.sleep(0)
        [server] = echo.servers
        server.close()
        await server.wait_closed()
        [protocol] = server.protocols
        assert not protocol.processor.streams
        assert not protocol.connection._connection.streams[stream].closed

    asyncio.run(held(talking))
