"""Issuance over gRPC with durable records, against OpenBao's `pki/sign` on the same cores.

Ours: check, sign, validate again, then ledger (SQLite, synced) and audit chain (synced) before the
answer leaves; with one worker, and with two and the process that records for both, as `meshwarden
ca serve --workers 2` has them. OpenBao signs P-256 and stores: on the disk and with an audit log,
as we do, which the goal is held against; and as a development server in memory, which promises less
and is printed beside it. Beside them stands the bare signature of `cryptography`: what no CA can
undercut. Every round runs each contestant for as long. The goals are judged at one number of
requests in flight, which `_JUDGED` names; both sides are measured and printed at others too.
Without OpenBao (MESHWARDEN_OPENBAO, or `bao` on the PATH) the goal against it is not judged, and
that is said.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from bench.ca_contest.load import Load, load_openbao, load_workers
from bench.ca_contest.openbao import find_openbao, openbao_in_memory, openbao_on_disk
from bench.ca_contest.parts import make_csrs, prepare
from bench.harness import Contestant, Goal, Measurement, judge, measure, publish

_ROUNDS = 3
_SECONDS = 1.5
_AT_LEAST = 1.2
_P99_LIMIT_NANOSECONDS = 20e6
_ONE, _TWO = "one worker", "two workers"
_BAO, _BAO_IN_MEMORY = "OpenBao pki/sign", "OpenBao in memory"
_LIMIT, _SIGNATURE = "the limit of 20 ms", "bare P-256 signature"
_IN_FLIGHT = (4, 8, 16, 32)
_JUDGED = 8

_Put: TypeAlias = Callable[[int], Load]
"""Puts a contestant under load with so many requests in flight."""


@contextmanager
def _workers(folder: Path, count: int) -> Iterator[list[int]]:
    """Run so many workers on a ledger of their own; yields their ports."""
    folder.mkdir()
    prepare(folder)
    command = [sys.executable, "-m", "bench.ca_contest.worker", str(folder), str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield [int(process.stdout.readline()) for _ in range(count)]
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


def _contestants(stack: ExitStack, csrs: list[str], folder: Path) -> dict[str, _Put]:
    """Start every contestant; return how each is put under load."""
    puts: dict[str, _Put] = {}

    def ours(name: str, count: int) -> None:
        ports = stack.enter_context(_workers(folder / str(count), count))
        puts[name] = lambda many: asyncio.run(load_workers(ports, csrs, many, _SECONDS))

    def theirs(name: str, port: int, token: str) -> None:
        puts[name] = lambda many: asyncio.run(load_openbao(port, token, csrs, many, _SECONDS))

    ours(_ONE, 1)
    ours(_TWO, 2)
    program = find_openbao()
    if program is None:
        print("OpenBao is not here (MESHWARDEN_OPENBAO or `bao`): not compared with it")
        return puts
    for name, server in ((_BAO, openbao_on_disk), (_BAO_IN_MEMORY, openbao_in_memory)):
        bao = stack.enter_context(server(program, folder))
        theirs(name, bao.port, bao.token)
    return puts


def _schedule(names: list[str]) -> list[tuple[str, int]]:
    """Return what one round measures: who is judged at every number, the others at one."""
    compared = [name for name in (_TWO, _BAO) if name in names]
    beside = [(name, _JUDGED) for name in names if name not in compared]
    return [(name, many) for many in _IN_FLIGHT for name in compared] + beside


def _named(name: str, in_flight: int) -> str:
    """Return what a contestant is called at so many requests in flight."""
    return f"{name}, {in_flight} in flight"


def _goals(names: set[str]) -> list[Goal]:
    """Return the goals that can be judged with these contestants."""
    two, bao = _named(_TWO, _JUDGED), _named(_BAO, _JUDGED)
    goals = [
        Goal(
            name=f"p99 of two workers within 20 ms, {_JUDGED} in flight",
            numerator=f"{two}, p99",
            denominator=_LIMIT,
            limit=1.0,
            kind="at_most",
        )
    ]
    if bao in names:
        goals.append(
            Goal(
                name=f"rate of two workers against OpenBao's, {_JUDGED} in flight",
                numerator=bao,
                denominator=two,
                limit=_AT_LEAST,
            )
        )
    return goals


def _measured(loads: dict[str, list[Load]]) -> list[Measurement]:
    """Return the time of a certificate, and its p99, of each contestant."""
    found = []
    for name, taken in loads.items():
        calls = min(load.issued for load in taken)
        rates = tuple(each.nanoseconds for each in taken)
        waits = tuple(each.p99_nanoseconds for each in taken)
        found.append(Measurement(name=name, samples=rates, calls_per_sample=calls))
        found.append(Measurement(name=f"{name}, p99", samples=waits, calls_per_sample=calls))
    return found


def main() -> int:
    """Measure, print, write; 1 when a goal is missed."""
    csrs = make_csrs()
    loads: dict[str, list[Load]] = {}
    with ExitStack() as stack:
        puts = _contestants(stack, csrs, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        schedule = _schedule(list(puts))
        for turn in range(_ROUNDS):
            # The order rotates, so that nobody is always the first.
            for step in range(len(schedule)):
                name, many = schedule[(turn + step) % len(schedule)]
                loads.setdefault(_named(name, many), []).append(puts[name](many))
    limit = Measurement(name=_LIMIT, samples=(_P99_LIMIT_NANOSECONDS,), calls_per_sample=1)
    measured = [_signature(), *_measured(dict(sorted(loads.items()))), limit]
    return publish(judge("ca", measured, _goals(set(loads))))


if __name__ == "__main__":
    sys.exit(main())
