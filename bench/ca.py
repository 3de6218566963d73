"""Issuance over gRPC with durable records, against OpenBao's `pki/sign` on the same cores.

Ours: check, sign, validate again, then ledger (SQLite, synced) and audit chain (synced) before the
answer leaves; with one worker, and with two that share the ledger. OpenBao signs P-256 and stores:
on the disk and with an audit log, as we do, which the goal is held against; and as a development
server in memory, which promises less and is printed beside it. Beside them stands the bare
signature of `cryptography`: what no CA can undercut. Every round runs each contestant for as long;
32 requests are in flight. Without OpenBao (MESHWARDEN_OPENBAO, or `bao` on the PATH) the goal
against it is not judged, and that is said.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from bench.ca_contest.load import Load, load_openbao, load_workers
from bench.ca_contest.openbao import (
    OpenBao,
    find_openbao,
    openbao_in_memory,
    openbao_on_disk,
)
from bench.ca_contest.parts import make_csrs, prepare
from bench.harness import Contestant, Goal, Measurement, judge, measure, publish

_ROUNDS = 5
_SECONDS = 3.0
_AT_LEAST = 1.2
_P99_LIMIT_NANOSECONDS = 20e6
_ONE, _TWO = "one worker", "two workers"
_BAO, _BAO_IN_MEMORY = "OpenBao pki/sign", "OpenBao in memory"
_LIMIT, _SIGNATURE = "the limit of 20 ms", "bare P-256 signature"

_Run = Callable[[], Load]


@contextmanager
def _worker(folder: Path, node: str) -> Iterator[int]:
    """Run a worker; yields its port."""
    command = [sys.executable, "-m", "bench.ca_contest.worker", str(folder), node]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()


def _signature() -> Measurement:
    """Measure what one signature takes."""
    key = ec.generate_private_key(ec.SECP256R1())
    data = b"a" * 400

    def sign() -> None:
        key.sign(data, ec.ECDSA(hashes.SHA256()))

    [measured] = measure([Contestant(_SIGNATURE, sign)])
    return measured


def _contestants(stack: ExitStack, csrs: list[str], folder: Path) -> dict[str, _Run]:
    """Start every contestant; return how each is put under load."""
    prepare(folder)
    ports = [stack.enter_context(_worker(folder, node)) for node in ("one", "two")]
    runs: dict[str, _Run] = {
        _ONE: lambda: asyncio.run(load_workers(ports[:1], csrs, _SECONDS)),
        _TWO: lambda: asyncio.run(load_workers(ports, csrs, _SECONDS)),
    }
    program = find_openbao()
    if program is None:
        print("OpenBao is not here (MESHWARDEN_OPENBAO or `bao`): not compared with it")
        return runs
    for name, server in ((_BAO, openbao_on_disk), (_BAO_IN_MEMORY, openbao_in_memory)):
        bao = stack.enter_context(server(program, folder))
        runs[name] = partial(_load_openbao, bao, csrs)
    return runs


def _load_openbao(bao: OpenBao, csrs: list[str]) -> Load:
    """Put one of the servers under load."""
    return asyncio.run(load_openbao(bao.port, bao.token, csrs, _SECONDS))


def _goals(names: set[str]) -> list[Goal]:
    """Return the goals that can be judged with these contestants."""
    goals = [
        Goal(
            name="p99 of two workers within 20 ms",
            numerator=f"{_TWO}, p99",
            denominator=_LIMIT,
            limit=1.0,
            kind="at_most",
        )
    ]
    if _BAO in names:
        goals.append(
            Goal(
                name="rate of two workers against OpenBao's",
                numerator=_BAO,
                denominator=_TWO,
                limit=_AT_LEAST,
            )
        )
    return goals


def main() -> int:
    """Measure, print, write; 1 when a goal is missed."""
    csrs = make_csrs()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        runs = _contestants(stack, csrs, folder)
        loads: dict[str, list[Load]] = {name: [] for name in runs}
        names = list(runs)
        for turn in range(_ROUNDS):
            # The order rotates, so that nobody is always the first.
            for step in range(len(names)):
                name = names[(turn + step) % len(names)]
                loads[name].append(runs[name]())
    measured = [_signature()]
    for name, taken in loads.items():
        calls = min(load.issued for load in taken)
        rates, waits = zip(
            *((each.nanoseconds, each.p99_nanoseconds) for each in taken), strict=True
        )
        measured.append(Measurement(name=name, samples=rates, calls_per_sample=calls))
        measured.append(Measurement(name=f"{name}, p99", samples=waits, calls_per_sample=calls))
    limit = Measurement(name=_LIMIT, samples=(_P99_LIMIT_NANOSECONDS,), calls_per_sample=1)
    return publish(judge("ca", [*measured, limit], _goals(set(runs))))


if __name__ == "__main__":
    sys.exit(main())
