"""Streams as others treat them: refused, unread, a thousand at once; and what `status` says."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import (
    SecretDiscoveryServiceStub,
    add_SecretDiscoveryServiceServicer_to_server,
)

from ca.board import SecretBoard
from ca.control import ask
from ca.sds import SecretDiscovery
from ca.status import stream_troubles
from ca.streams import OpenStreams
from identity.spiffe_id import SpiffeId

ID = "spiffe://example.org/ns/shop/sa/cart"
CART = "spiffe://cluster.local/ns/shop/sa/cart"


@pytest.fixture
def board(authority, clock, issue):
    """A board with roots and a certificate on it."""
    board = SecretBoard(SpiffeId.parse(ID), clock)
    board.publish_trust(authority.roots)
    board.publish_svid(issue())
    return board


@asynccontextmanager
async def _served(board, streams, path, **options):
    server = grpc.aio.server(options=[("grpc.server.max_pending_requests", 20_000)])
    discovery = SecretDiscovery(board, streams, **options)
    add_SecretDiscoveryServiceServicer_to_server(discovery, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


async def _until(probe, seconds=15):
    async with asyncio.timeout(seconds):
        while not (found := probe()):
            await asyncio.sleep(0.01)
        return found


def test_a_reader_that_stopped_is_let_go(board, issue, short_path):
    """Who does not read is ended after a while; who reads has the newest all the time."""
    streams = OpenStreams()

    async def run():
        path = short_path / "s"
        async with (
            _served(board, streams, path, answer_seconds=0.3),
            # Two connections, as two proxies have.
            grpc.aio.insecure_channel(f"unix:{path}", options=[("n", 1)]) as one,
            grpc.aio.insecure_channel(f"unix:{path}", options=[("n", 2)]) as other,
        ):
            stuck = SecretDiscoveryServiceStub(one).StreamSecrets()
            await stuck.write(DiscoveryRequest(resource_names=["default"]))
            reading = SecretDiscoveryServiceStub(other).StreamSecrets()
            await reading.write(DiscoveryRequest(resource_names=["default"]))
            await reading.read()
            async with asyncio.timeout(30):
                while len(streams) == 2:
                    svid = issue()
                    board.publish_svid(svid)
                    answer = await reading.read()
                    answered = _proxy(["default"], answer.nonce, answer.version_info)
                    await reading.write(answered)
            assert svid.chain_pem() in answer.resources[0].value
            reading.cancel()
            unread = 0
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                while await stuck.read() is not grpc.aio.EOF:
                    unread += 1
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert unread == 8

    asyncio.run(run())


def test_status_names_who_does_not_answer(board, clock):
    """A response without an answer is shown after half a minute, with the proxy's name."""
    streams = OpenStreams()
    with streams.opened("sds", ID) as stream:
        stream.node, stream.unanswered_since = "sidecar-1", clock()
        clock.now += timedelta(seconds=30)
        assert list(stream_troubles(streams, clock())) == []
        clock.now += timedelta(seconds=1)
        [trouble] = stream_troubles(streams, clock())
        assert (trouble.code, trouble.subject) == ("slow_reader", ID)
        assert "sidecar-1" in trouble.message


def _proxy(names, nonce="", version="", error=""):
    request = DiscoveryRequest(resource_names=names, response_nonce=nonce, version_info=version)
    request.node.id = "sidecar-1"
    if error:
        request.error_detail.code = 13
        request.error_detail.message = error
    return request


def test_a_refused_root_holds_a_rotation_up(serving):
    """A NACK is held, is shown in `status`, and keeps a new authority from signing."""

    async def run():
        async with (
            serving() as ca,
            grpc.aio.insecure_channel(f"unix:{ca.folder}/cart.sock") as channel,
        ):
            state = ca.folder / "state"

            async def asked(**request):
                return await asyncio.to_thread(ask, state, request)

            stream = SecretDiscoveryServiceStub(channel).StreamSecrets()
            await stream.write(_proxy(["ROOTCA"]))
            first = await stream.read()
            await stream.write(_proxy(["ROOTCA"], first.nonce, first.version_info))
            await asked(do="rotate", step="prepare")
            second = await stream.read()
            await stream.write(_proxy(["ROOTCA"], second.nonce, first.version_info, "no such"))
            while not (status := await asked(do="status"))["troubles"]:
                await asyncio.sleep(0.01)
            assert [(t["code"], t["subject"]) for t in status["troubles"]] == [
                ("secret_refused", CART)
            ]
            assert "no such" in status["troubles"][0]["message"]
            assert "sidecar-1" in status["troubles"][0]["message"]
            assert status["state"] == "degraded"
            waits = status["rotation"]["activationWaitsFor"]
            assert f"not acknowledged by `{CART}`" in waits
            with pytest.raises(Exception, match="not acknowledged by"):
                await asked(do="rotate", step="activate")
            stream.cancel()

    asyncio.run(run())


def _resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_thousand_streams(board, authority, keeper_of, short_path, capsys):
    """A thousand open streams learn a new root; memory and time to the last are printed."""
    count, connections, streams = 1000, 20, OpenStreams()
    with keeper_of(short_path / "other") as keeper:
        new_root = keeper.current().root

    async def run():
        path = short_path / "s"
        async with _served(board, streams, path):
            before = _resident_bytes()
            channels = [
                grpc.aio.insecure_channel(f"unix:{path}", options=[("n", index)])
                for index in range(connections)
            ]
            calls = [
                SecretDiscoveryServiceStub(channels[index % connections]).StreamSecrets()
                for index in range(count)
            ]

            async def first(call):
                await call.write(DiscoveryRequest(resource_names=["ROOTCA"]))
                response = await call.read()
                await call.write(
                    DiscoveryRequest(
                        resource_names=["ROOTCA"],
                        response_nonce=response.nonce,
                        version_info=response.version_info,
                    )
                )

            await asyncio.gather(*(first(call) for call in calls))
            await _until(lambda: not streams.lagging(1) and len(streams.carriers()) == count)
            memory = _resident_bytes() - before
            started = time.perf_counter()
            board.publish_trust((*authority.roots, new_root), sequence=2)

            async def second(call):
                response = await call.read()
                await call.write(
                    DiscoveryRequest(resource_names=["ROOTCA"], response_nonce=response.nonce)
                )
                return response.version_info

            versions = set(await asyncio.gather(*(second(call) for call in calls)))
            last = time.perf_counter() - started
            await _until(lambda: not streams.lagging(2))
            acknowledged = time.perf_counter() - started
            assert len(versions) == 1
            for call in calls:
                call.cancel()
            await asyncio.gather(*(channel.close() for channel in channels))
            return memory, last, acknowledged

    memory, last, acknowledged = asyncio.run(run())
    with capsys.disabled():
        print(
            f"\n{count} SDS streams, clients in the same process: "
            f"{memory / 2**20:.0f} MiB more, new root at the last after {last:.2f} s, "
            f"acknowledged by all after {acknowledged:.2f} s"
        )
    assert memory < 400 * 2**20
