"""A thousand open SDS streams on one CA process: its memory, and how soon all have a new root.

The CA is `meshwarden ca serve` itself with twenty workloads; on each socket stand fifty proxies'
streams, half of them state of the world, half delta. In every round the root goes through its three
slots, and each change of the roots is timed from the command that causes it to the last stream that
has read it, and until the CA knows that all have acknowledged it. The clients run on the same
cores, in this process; their memory is not counted.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from envoy.service.secret.v3.sds_pb2_grpc import SecretDiscoveryServiceStub

from bench.harness import Measurement, judge, publish
from ca.control import ask

_STREAMS, _WORKLOADS, _ROUNDS = 1000, 20, 5
_ROOTS = "ROOTCA"
_READ, _KNOWN = "new root read by the last stream", "acknowledged by all, as the CA knows it"
_START_SECONDS = 30.0


@contextmanager
def _ca(folder: Path) -> Iterator[int]:
    """Run the CA; yields its process number once it listens."""
    lines = ["stateFolder: state", "trustDomain: bench.example", "rotationWaitSeconds: 86400"]
    lines.append("workloads:")
    for number in range(_WORKLOADS):
        lines.append(f"  - {{spiffeId: spiffe://bench.example/w/{number}, socket: {number}.sock}}")
    config = folder / "ca.yaml"
    config.write_text("\n".join(lines))
    program = "from authz.cli import main; main()"
    command = [sys.executable, "-c", program, "ca", "serve", "-c", str(config)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end and "ca_ready" not in (folder / "log").read_text():
            if process.poll() is not None:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _resident_bytes(pid: int) -> int:
    """Return the memory that a process holds now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the process says nothing of its memory")


class _Stream:
    """One proxy's stream, of either flavour."""

    def __init__(self, stub: SecretDiscoveryServiceStub, *, is_delta: bool) -> None:
        """Open it."""
        self._is_delta = is_delta
        self._call: Any = stub.DeltaSecrets() if is_delta else stub.StreamSecrets()

    async def subscribe(self) -> None:
        """Ask for the roots."""
        if self._is_delta:
            await self._call.write(DeltaDiscoveryRequest(resource_names_subscribe=[_ROOTS]))
        else:
            await self._call.write(DiscoveryRequest(resource_names=[_ROOTS]))

    async def take(self) -> float:
        """Read and acknowledge the next response; return when it was read."""
        response = await self._call.read()
        read_at = time.perf_counter()
        if self._is_delta:
            await self._call.write(DeltaDiscoveryRequest(response_nonce=response.nonce))
        else:
            await self._call.write(
                DiscoveryRequest(
                    resource_names=[_ROOTS],
                    response_nonce=response.nonce,
                    version_info=response.version_info,
                )
            )
        return read_at


@asynccontextmanager
async def _streams(folder: Path) -> AsyncIterator[list[_Stream]]:
    """Open every stream and take what each is sent first."""
    async with AsyncExitStack() as stack:
        stubs = [
            SecretDiscoveryServiceStub(
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(f"unix:{folder}/{number}.sock")
                )
            )
            for number in range(_WORKLOADS)
        ]
        found = [
            _Stream(stubs[number % _WORKLOADS], is_delta=number // _WORKLOADS % 2 == 1)
            for number in range(_STREAMS)
        ]
        await asyncio.gather(*(stream.subscribe() for stream in found))
        await asyncio.gather(*(stream.take() for stream in found))
        yield found


async def _step(folder: Path, step: str) -> None:
    """Take one step of a rotation."""
    request = {"do": "rotate", "step": step, "force": True}
    await asyncio.to_thread(ask, folder / "state", request)


async def _acknowledged(folder: Path) -> None:
    """Return when the CA has every acknowledgement of the prepared root."""
    while True:
        status = await asyncio.to_thread(ask, folder / "state", {"do": "status"})
        assert status is not None
        if not status["rotation"]["activationWaitsFor"]:
            return
        await asyncio.sleep(0.01)


async def _push(folder: Path, streams: list[_Stream], step: str) -> float:
    """Take a step that changes the roots; return the seconds until the last stream has them."""
    taking = [asyncio.create_task(each.take()) for each in streams]
    began = time.perf_counter()
    await _step(folder, step)
    return max(await asyncio.gather(*taking)) - began


async def _rotate(folder: Path, pid: int) -> dict[str, list[float]]:
    """Return what each change of the roots took, in seconds."""
    before = _resident_bytes(pid)
    taken: dict[str, list[float]] = {_READ: [], _KNOWN: []}
    async with _streams(folder) as streams:
        open_at = _resident_bytes(pid)
        for _ in range(_ROUNDS):
            began = time.perf_counter()
            taken[_READ].append(await _push(folder, streams, "prepare"))
            await _acknowledged(folder)
            taken[_KNOWN].append(time.perf_counter() - began)
            await _step(folder, "activate")
            taken[_READ].append(await _push(folder, streams, "retire"))
        after = _resident_bytes(pid)
    print(
        f"{_STREAMS} open SDS streams on one process: {open_at / 2**20:.0f} MiB resident, "
        f"{(open_at - before) / 2**20:.1f} MiB of it for the streams "
        f"({(open_at - before) / _STREAMS / 1024:.0f} KiB each), "
        f"{after / 2**20:.0f} MiB after {2 * _ROUNDS} changes of the roots"
    )
    return taken


def main() -> int:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory(prefix="mw-") as name, _ca(Path(name)) as pid:
        taken = asyncio.run(_rotate(Path(name), pid))
    measured = [
        Measurement(
            name=what, samples=tuple(each * 1e9 for each in seconds), calls_per_sample=_STREAMS
        )
        for what, seconds in taken.items()
    ]
    return publish(judge("ca_streams", measured, []))


if __name__ == "__main__":
    sys.exit(main())
