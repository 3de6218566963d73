"""A steady stream of requests to one port: none is retried, every answer is looked at."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

_CONNECTIONS = 10
_REQUEST = b"GET / HTTP/1.1\r\nhost: pay\r\n\r\n"


class Traffic:
    """What was sent and what came back; `failures` holds the first few answers that were none."""

    def __init__(self, port, rate, expected):
        """Plan `rate` requests a second to `port`; each answer must have the header line."""
        self._port, self._rate, self._expected = port, rate, expected
        self._stop = asyncio.Event()
        self.sent, self.failures, self.seconds = 0, [], 0.0
        self.serials, self.issuers = Counter(), Counter()

    @asynccontextmanager
    async def flowing(self):
        """Send while the block runs."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with asyncio.TaskGroup() as group:
            for index in range(_CONNECTIONS):
                group.create_task(self._send(start + index / self._rate))
            try:
                yield self
            finally:
                self._stop.set()
        self.seconds = loop.time() - start

    async def _send(self, due):
        loop, every = asyncio.get_running_loop(), _CONNECTIONS / self._rate
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while not self._stop.is_set():
                # Open loop: the next is due by the clock, however long an answer took.
                await asyncio.sleep(max(0, due - loop.time()))
                due += every
                writer.write(_REQUEST)
                self.sent += 1
                self._look(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10))
        except (OSError, EOFError, TimeoutError) as exc:
            self.failures.append(repr(exc))
        finally:
            writer.close()

    def _look(self, head):
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        ok = "200" in status and headers.get("x-peer") == self._expected
        if not (ok and headers.get("content-length", "0") == "0"):
            self.failures.append(head.decode())
            return
        self.serials[headers["x-serial"]] += 1
        self.issuers[headers["x-issuer"]] += 1
