"""What `status` says when things go wrong, and that an expired leaf is never served."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

from ca.clock import ClockWatch, utc_now
from ca.control import ask
from ca.errors import ControlError, StateError
from ca.opening import open_state
from ca.status import describe_status

CART = "spiffe://cluster.local/ns/shop/sa/cart"


class ShiftedClock:
    """The machine's clock, moved by a span."""

    def __init__(self):
        """Start with no shift."""
        self.shift = timedelta(0)

    def __call__(self):
        """Return the moment."""
        return datetime.now(UTC) + self.shift


@pytest.fixture(autouse=True)
def _fast_watch(monkeypatch):
    """Notice ages and jumps at once."""
    monkeypatch.setattr("ca.server._WATCH_SECONDS", 0.05)
    monkeypatch.setattr("ca.renewal._MAX_WAIT_SECONDS", 0.05)


async def _status(ca):
    return await asyncio.to_thread(ask, ca.folder / "state", {"do": "status"})


async def _status_with(ca, code, seconds=10):
    """Return the first status that has a trouble `code`."""
    async with asyncio.timeout(seconds):
        while True:
            status = await _status(ca)
            if code in {trouble["code"] for trouble in status["troubles"]}:
                return status
            await asyncio.sleep(0.02)


async def _default_secret(ca):
    """Return what a new proxy gets under `default`, or the status code."""
    async with grpc.aio.insecure_channel(f"unix:{ca.folder}/cart.sock") as channel:
        stub = SecretDiscoveryServiceStub(channel)
        try:
            response = await stub.FetchSecrets(DiscoveryRequest(resource_names=["default"]))
        except grpc.aio.AioRpcError as exc:
            return exc.code()
    return response.version_info


def test_all_is_well(serving):
    """A CA that serves says what expires when, for programs and for people."""

    async def run():
        async with serving() as ca:
            status = await _status(ca)
            assert (status["state"], status["serving"], status["troubles"]) == ("ok", True, [])
            assert [w["spiffeId"] for w in status["workloads"]][0] == CART
            assert status["workloads"][0]["secondsLeft"] > 3500
            [authority] = status["authorities"]
            assert authority["root"]["secondsLeft"] > authority["intermediate"]["secondsLeft"]
            text = describe_status(status)
            assert "trust domain  cluster.local (serving), ok" in text
            assert authority["root"]["expiresAt"] in text
            assert f"workload      {CART}  ok, in" in text

    asyncio.run(run())


@pytest.mark.failure("ca-clock-ahead")
def test_clock_set_forward(serving):
    """A jump past the leaf's end is named; at once there is a new leaf, never the expired one."""

    async def run():
        clock = ShiftedClock()
        async with serving(clock=clock) as ca:
            before = await _default_secret(ca)
            clock.shift = timedelta(hours=3)
            assert await _default_secret(ca) != before
            status = await _status_with(ca, "clock_jump")
            assert "jumped by +10800 s" in status["troubles"][0]["message"]
            async with asyncio.timeout(10):
                while await _default_secret(ca) in (before, grpc.StatusCode.UNAVAILABLE):
                    await asyncio.sleep(0.02)

    asyncio.run(run())


@pytest.mark.failure("ca-clock-behind")
def test_clock_set_back(serving):
    """Before the authority's own start nothing is served or signed, and `status` fails."""

    async def run():
        clock = ShiftedClock()
        async with serving(clock=clock) as ca:
            clock.shift = -timedelta(hours=3)
            assert await _default_secret(ca) is grpc.StatusCode.UNAVAILABLE
            status = await _status_with(ca, "clock_jump")
            assert status["state"] == "failing"
            assert {"authority_early", "svid_missing"} <= {t["code"] for t in status["troubles"]}
            clock.shift = timedelta(0)
            async with asyncio.timeout(10):
                while await _default_secret(ca) is grpc.StatusCode.UNAVAILABLE:
                    await asyncio.sleep(0.02)
            assert (await _status_with(ca, "clock_jump"))["state"] == "degraded"

    asyncio.run(run())


@pytest.mark.failure("ca-intermediate-expired")
def test_expired_intermediate(serving):
    """Without the root's key the end of the intermediate ends service, loudly; a new root heals."""

    async def run():
        clock = ShiftedClock()
        async with serving(clock=clock, intermediateLifetimeDays=1, rotationWaitSeconds=0) as ca:
            next((ca.folder / "state/keys").glob("root-*")).unlink()
            clock.shift = timedelta(hours=20)
            # The leaf of before is over too; there is a new one within moments.
            async with asyncio.timeout(10):
                while (status := await _status(ca))["state"] != "degraded":
                    await asyncio.sleep(0.02)
            assert "intermediate_renewal_failed" in {t["code"] for t in status["troubles"]}
            clock.shift = timedelta(hours=25)
            status = await _status_with(ca, "authority_expired")
            assert status["state"] == "failing"
            assert await _default_secret(ca) is grpc.StatusCode.UNAVAILABLE
            for step in ("prepare", "activate"):
                await asyncio.to_thread(
                    ask, ca.folder / "state", {"do": "rotate", "step": step, "force": True}
                )
            async with asyncio.timeout(10):
                while await _default_secret(ca) is grpc.StatusCode.UNAVAILABLE:
                    await asyncio.sleep(0.02)
            status = await _status(ca)
            assert "authority_expired" not in {t["code"] for t in status["troubles"]}

    asyncio.run(run())


def test_a_denied_workload_gets_nothing_more(serving):
    """A denied certificate is replaced at once; under a denied ID none is served any more."""

    async def run():
        async with serving() as ca:
            state = ca.folder / "state"

            async def asked(**request):
                return await asyncio.to_thread(ask, state, request)

            before = await _default_secret(ca)
            [row] = (await asked(do="list", spiffeId=CART))["issued"]
            await asked(do="revoke", kind="serial", value=row["serial"])
            async with asyncio.timeout(10):
                while await _default_secret(ca) in (before, grpc.StatusCode.UNAVAILABLE):
                    await asyncio.sleep(0.02)
            await asked(do="revoke", kind="spiffe_id", value=CART)
            status = await _status_with(ca, "svid_missing")
            assert "is denied" in status["troubles"][0]["message"]
            assert await _default_secret(ca) is grpc.StatusCode.UNAVAILABLE
            await asked(do="lift", kind="spiffe_id", value=CART)
            async with asyncio.timeout(20):
                while await _default_secret(ca) is grpc.StatusCode.UNAVAILABLE:
                    await asyncio.sleep(0.02)

    asyncio.run(run())


def test_retirement_knows_the_last_leaf(serving):
    """The ledger says when the last leaf of the retired authority ends: no day has to pass."""

    async def run():
        async with serving(svidLifetimeSeconds=600, rotationWaitSeconds=0) as ca:
            for step in ("prepare", "activate"):
                await asyncio.to_thread(ask, ca.folder / "state", {"do": "rotate", "step": step})
            async with asyncio.timeout(10):
                while True:
                    [waits] = (await _status(ca))["rotation"]["retirementWaitsFor"]
                    seconds = int(waits.removesuffix(" s").rsplit(" ", 1)[1])
                    if seconds <= 600:
                        break
                    await asyncio.sleep(0.1)
            assert seconds > 500

    asyncio.run(run())


def test_every_step_is_on_record(serving):
    """The audit chain names each step of a rotation, and what was forced past."""

    async def run():
        async with serving(rotationWaitSeconds=0) as ca:
            for step in ("prepare", "activate", "retire"):
                request = {"do": "rotate", "step": step, "force": True}
                await asyncio.to_thread(ask, ca.folder / "state", request)
            return ca.folder / "state"

    state = asyncio.run(run())
    lines = [
        json.loads(line)
        for path in sorted((state / "audit").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    steps = [line["details"] for line in lines if line.get("event") == "authority_changed"]
    assert (steps[0]["step"], steps[0]["authority"]) == ("intermediate", 1)
    steps = [step for step in steps if step["step"] != "intermediate"]
    assert [(s["step"], s["authority"]) for s in steps] == [
        ("prepare", 2),
        ("activate", 2),
        ("retire", 1),
    ]
    assert "last leaf" in steps[2]["forced_past"][0]


def test_requests_that_are_none(serving):
    """Nonsense on the control socket is answered as such, and the CA serves on."""

    async def run():
        async with serving() as ca:
            for request in ({}, {"do": "no-such"}, {"do": ["rotate"]}, {"do": "rotate"}):
                with pytest.raises(ControlError):
                    await asyncio.to_thread(ask, ca.folder / "state", request)
            mode = (ca.folder / "state/control.sock").stat().st_mode & 0o777
            assert mode == 0o600
            with pytest.raises(StateError, match="held by another process"):
                open_state(ca.settings, utc_now).__enter__()
            assert (await _status(ca))["state"] == "ok"
        assert ask(ca.folder / "state", {"do": "status"}) is None

    asyncio.run(run())


def test_watch_tells_a_jump_from_an_idle_hour():
    """Only a difference between the two clocks is a jump, and it is shown for an hour."""
    wall, seconds = [datetime(2026, 1, 1, tzinfo=UTC)], [0.0]
    watch = ClockWatch(lambda: wall[0], lambda: seconds[0])
    wall[0], seconds[0] = wall[0] + timedelta(hours=1), 3600.0
    assert watch.check() is None
    wall[0] -= timedelta(minutes=2)
    assert watch.check() == -timedelta(minutes=2)
    assert watch.recent_jump == -timedelta(minutes=2)
    wall[0], seconds[0] = wall[0] + timedelta(seconds=3601), seconds[0] + 3601
    assert watch.check() is None
    assert watch.recent_jump is None
