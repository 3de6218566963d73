"""Two real Envoys talk mTLS while leaves and roots rotate under them, and nothing fails.

The short form is part of every run. `MESHWARDEN_LONG=1` runs the long one: 500 requests a second,
leaves every 5 s.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import pytest
from traffic import Traffic
from two_envoys import CART, client_bootstrap, envoy, server_bootstrap, until

from ca.control import ask

pytestmark = pytest.mark.envoy


@dataclass(frozen=True)
class Load:
    """How hard a run is."""

    svid_seconds: int
    rate: int
    certificates: int


SHORT = Load(svid_seconds=2, rate=100, certificates=6)
LONG = Load(svid_seconds=10, rate=500, certificates=10)
IS_LONG = bool(os.environ.get("MESHWARDEN_LONG"))


async def _rotate(state, step):
    return await asyncio.to_thread(ask, state, {"do": "rotate", "step": step})


async def _open_way(state, key, seconds):
    """Wait until nothing stands against a step."""
    async with asyncio.timeout(seconds):
        while True:
            status = await asyncio.to_thread(ask, state, {"do": "status"})
            assert status["troubles"] == []
            if not status["rotation"][key]:
                return
            await asyncio.sleep(0.05)


async def _run(serving, folder, api_type, load):
    settings = {"svidLifetimeSeconds": load.svid_seconds, "rotationWaitSeconds": 86_400}
    async with (
        serving(**settings),
        envoy(folder, "pay", server_bootstrap(folder, api_type)) as pay,
    ):
        port = (await pay.ports(1))["mtls"]
        bootstrap = client_bootstrap(folder, api_type, port, requests_per_connection=5)
        async with envoy(folder, "cart", bootstrap) as cart:
            traffic = Traffic((await cart.ports(2))["right"], load.rate, CART)
            async with traffic.flowing():
                for _ in range(2):
                    await _through_the_slots(folder / "state", load, traffic)
                async with asyncio.timeout(load.certificates * load.svid_seconds):
                    while len(traffic.serials) < load.certificates:
                        await asyncio.sleep(0.05)
            page = (await pay.admin.get("/stats?filter=ssl.handshake|update_rejected")).text
    return traffic, dict(line.split(": ") for line in page.splitlines())


async def _through_the_slots(state, load, traffic):
    """Take the root through its three slots once; what is new must be seen on the wire."""
    await _rotate(state, "prepare")
    # Only acknowledgements can open this way: the wait is a day.
    await _open_way(state, "activationWaitsFor", 10)
    issuers = len(traffic.issuers)
    await _rotate(state, "activate")

    async def seen():
        return len(traffic.issuers) > issuers

    await until(seen, "a certificate of the new authority")
    await _open_way(state, "retirementWaitsFor", load.svid_seconds + 10)
    await _rotate(state, "retire")


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
def test_no_request_fails_while_everything_rotates(serving, tmp_path, api_type, capsys):
    """While leaves rotate, and the root goes through its slots twice, every request succeeds."""
    load = LONG if IS_LONG else SHORT
    traffic, stats = asyncio.run(_run(serving, tmp_path, api_type, load))
    handshakes = sum(int(value) for name, value in stats.items() if name.endswith("handshake"))
    every = traffic.seconds / max(len(traffic.serials), 1)
    with capsys.disabled():
        print(
            f"\n{api_type}: {traffic.sent} requests in {traffic.seconds:.1f} s "
            f"({traffic.sent / traffic.seconds:.0f}/s), {len(traffic.failures)} failed; "
            f"{handshakes} handshakes, a new leaf every {every:.1f} s "
            f"({len(traffic.serials)} of the client), {len(traffic.issuers)} authorities in turn"
        )
    assert traffic.failures == []
    assert len(traffic.issuers) == 3
    assert len(traffic.serials) >= traffic.seconds / load.svid_seconds
    assert handshakes > 3 * len(traffic.serials)
    assert all(value == "0" for name, value in stats.items() if "rejected" in name)
    if IS_LONG:
        assert traffic.sent / traffic.seconds >= 0.99 * load.rate
