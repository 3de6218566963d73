"""The load: so many requests in flight for so long, by the leanest client of each protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench.ca_contest.grpc_wire import GrpcConnection, connect
from ca.wire_messages import ISTIO_CA

_METHOD = "/istio.v1.auth.IstioCertificateService/CreateCertificate"

Ask = Callable[[], Awaitable[None]]
"""Asks for one certificate and returns when it is there."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load: nanoseconds a certificate, and the 99th percentile of its wait."""

    nanoseconds: float
    p99_nanoseconds: float
    issued: int


async def put_under_load(askers: Sequence[Ask], seconds: float) -> Load:
    """Let every asker ask, one request after the other, until the time is over."""
    waits: list[int] = []
    began = time.perf_counter_ns()
    end = began + int(seconds * 1e9)

    async def ask_on(ask: Ask) -> None:
        while (start := time.perf_counter_ns()) < end:
            await ask()
            waits.append(time.perf_counter_ns() - start)

    await asyncio.gather(*(ask_on(ask) for ask in askers))
    took = time.perf_counter_ns() - began
    waits.sort()
    return Load(took / len(waits), waits[int(len(waits) * 0.99)], len(waits))


async def load_workers(
    ports: Sequence[int], csrs: Sequence[str], in_flight: int, seconds: float
) -> Load:
    """Put our workers under load, the connections dealt out among them."""
    request, answer = ISTIO_CA["IstioCertificateRequest"], ISTIO_CA["IstioCertificateResponse"]
    stock = itertools.cycle(request(csr=csr).SerializeToString() for csr in csrs)
    connections = [
        await connect(ports[number % len(ports)], _METHOD) for number in range(in_flight)
    ]

    def asker(connection: GrpcConnection) -> Ask:
        async def ask() -> None:
            assert answer.FromString(await connection.call(next(stock))).cert_chain

        return ask

    try:
        return await put_under_load([asker(each) for each in connections], seconds)
    finally:
        for each in connections:
            each.close()


async def load_openbao(
    port: int, token: str, csrs: Sequence[str], in_flight: int, seconds: float
) -> Load:
    """Put OpenBao's `pki/sign` under load, over connections that stay open."""
    stock = itertools.cycle(_http_request(port, token, csr) for csr in csrs)
    streams = [
        await asyncio.open_connection("127.0.0.1", port, limit=1 << 20) for _ in range(in_flight)
    ]

    def asker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Ask:
        async def ask() -> None:
            writer.write(next(stock))
            head = await reader.readuntil(b"\r\n\r\n")
            # Go answers what does not fit its buffer in chunks; the last one is empty.
            body = await reader.readuntil(b"\r\n0\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), body

        return ask

    try:
        return await put_under_load([asker(*stream) for stream in streams], seconds)
    finally:
        for _, writer in streams:
            writer.close()


def _http_request(port: int, token: str, csr: str) -> bytes:
    """Return the whole request to sign one CSR."""
    body = json.dumps({"csr": csr, "ttl": "1h"}).encode()
    head = (
        "POST /v1/pki/sign/mesh HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\nX-Vault-Token: {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
