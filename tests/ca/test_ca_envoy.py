"""Real Envoy takes its identity from the CA: both flavours of SDS, mTLS, rotation, refusals."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from unittest.mock import ANY

import pytest
from two_envoys import (
    CART,
    PAY,
    client_bootstrap,
    client_context,
    envoy,
    handshake,
    http,
    server_bootstrap,
    until,
)

pytestmark = pytest.mark.envoy


@pytest.mark.parametrize(
    ("api_type", "names"),
    [
        ("GRPC", ("default", "ROOTCA")),
        ("DELTA_GRPC", ("default", "ROOTCA")),
        ("GRPC", (PAY, "ALL")),
        ("DELTA_GRPC", (PAY, "spiffe://cluster.local")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1],
)
def test_mtls_through_two_envoys(serving, tmp_path, api_type, names):
    """Two Envoys take their identities over SDS and shake hands; the wrong peer is refused."""

    async def run():
        async with (
            serving(),
            envoy(tmp_path, "pay", server_bootstrap(tmp_path, api_type, names)) as pay,
        ):
            port = (await pay.ports(1))["mtls"]
            assert PAY in await pay.uris()
            bootstrap = client_bootstrap(tmp_path, api_type, port)
            async with envoy(tmp_path, "cart", bootstrap) as cart, http() as client:
                ports = await cart.ports(2)
                assert CART in await cart.uris()
                right = await client.get(f"http://127.0.0.1:{ports['right']}/")
                assert (right.status_code, right.headers["x-peer"]) == (200, CART)
                wrong = await client.get(f"http://127.0.0.1:{ports['wrong']}/")
                assert wrong.status_code == 503

    asyncio.run(run())


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_rotation_is_served_without_a_failure(serving, tmp_path, api_type):
    """Envoy serves each new certificate as it comes, and no handshake between fails."""

    async def run():
        async with (
            serving(svidLifetimeSeconds=2),
            envoy(tmp_path, "pay", server_bootstrap(tmp_path, api_type)) as pay,
        ):
            port, serials = (await pay.ports(1))["mtls"], set()

            async with asyncio.timeout(15):
                # Outside `until`, so that one failed handshake fails the test.
                while len(serials) < 2:
                    context = await client_context(tmp_path / "cart.sock", tmp_path)
                    certificate, answer = await handshake(port, context)
                    assert f"x-peer: {CART}" in answer
                    serials.add(certificate.serial_number)

    asyncio.run(run())


def test_strangers_are_refused(serving, tmp_path):
    """A foreign trust domain, and a client without certificate, get no answer from Envoy."""

    async def run():
        other = tmp_path / "other"
        other.mkdir()
        foreign = {"spiffeId": "spiffe://other.org/ns/shop/sa/cart", "socket": "cart.sock"}
        async with (
            serving(),
            serving(folder=other, trustDomain="other.org", workloads=[foreign]),
            envoy(tmp_path, "pay", server_bootstrap(tmp_path, "GRPC")) as pay,
        ):
            port = (await pay.ports(1))["mtls"]
            context = await client_context(other / "cart.sock", other)
            context.load_verify_locations(tmp_path / "state/bundle.pem")
            bare = ssl.create_default_context(cafile=tmp_path / "state/bundle.pem")
            bare.check_hostname = False
            for stranger, counter in (
                (context, "fail_verify_error"),
                (bare, "fail_verify_no_cert"),
            ):
                # TLS 1.3 tells a client of its refusal only after the client's own handshake.
                with suppress(OSError):
                    assert await handshake(port, stranger) == (ANY, "")

                async def counted(counter=counter):
                    page = (await pay.admin.get(f"/stats?filter=ssl.{counter}$")).text
                    return any(line.endswith(": 1") for line in page.splitlines())

                await until(counted, counter)

    asyncio.run(run())


def test_envoy_outlives_the_ca(serving, tmp_path):
    """With the CA gone Envoy serves on; a CA on the same state is taken up without a restart."""

    async def run():
        async with serving():
            context = await client_context(tmp_path / "cart.sock", tmp_path)
            process = envoy(tmp_path, "pay", server_bootstrap(tmp_path, "GRPC"))
            pay = await process.__aenter__()
            port = (await pay.ports(1))["mtls"]
            before, _ = await handshake(port, context)
        try:
            assert (await handshake(port, context))[0] == before
            async with serving():

                async def renewed():
                    return (await handshake(port, context))[0] != before

                await until(renewed, "a certificate of the second start")
        finally:
            await process.__aexit__(None, None, None)

    asyncio.run(run())
