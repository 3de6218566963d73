"""Evaluations that run away, crash or eat memory cost their own request and nobody else's."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.errors import EngineError, EngineTimeout
from opa_bridge.frames import PeerGone, receive_frame
from opa_bridge.worker_pool import _is_gone, _Worker

# 2,000^3 combinations when asked to; nothing otherwise.
RUNAWAY = """package a
default r := false
xs := numbers.range(1, 2000)
r if not input.run
r if {
    input.run
    some x in xs
    some y in xs
    some z in xs
    x + y + z < 0
}
"""
HUNGRY = """package a
default r := false
r if not input.eat
r if {
    input.eat
    count([x | some x in numbers.range(1, 100000000)]) > 0
}
"""


def engine(source: str, *, budget: float = 5.0, workers: int = 2) -> EmbeddedEngine:
    """Return an engine over one module with the entrypoint `a/r`."""
    return EmbeddedEngine([("a.rego", source)], "a/r", {}, budget_seconds=budget, workers=workers)


def processes_below(parent: int) -> set[int]:
    """Return the numbers of all processes that descend from one."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_text("utf-8")
            except OSError:
                continue
            parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {parent}
    while more := {child for child, above in parents.items() if above in found} - found:
        found |= more
    return found - {parent}


def is_alive(process: int) -> bool:
    """Tell a process that runs from one that is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text("utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


@pytest.fixture
def runaway() -> Iterator[EmbeddedEngine]:
    """Yield an engine with a policy that can run away, and two workers."""
    found = engine(RUNAWAY, budget=0.3)
    yield found
    found.close()


def test_runaway_is_stopped(runaway: EmbeddedEngine) -> None:
    """A policy without an end is cut off, and the engine answers the next request."""
    for _ in range(3):
        with pytest.raises(EngineTimeout, match="300 ms"):
            runaway.evaluate({"run": True})
        assert runaway.evaluate({}) is True


def test_callers_time_counts(runaway: EmbeddedEngine) -> None:
    """The caller's time is a limit as well."""
    with pytest.raises(EngineTimeout, match="50 ms"):
        runaway.evaluate({"run": True}, 0.05)
    with pytest.raises(EngineTimeout):
        runaway.evaluate({}, 0)
    assert runaway.evaluate({}) is True


def test_neighbours_are_served_while_one_runs_away() -> None:
    """While one evaluation runs away, every other request gets its answer."""
    found = engine(RUNAWAY, budget=1.0)
    answers: list[object] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            answers.append(found.evaluate({}))

    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(ask)
        with pytest.raises(EngineTimeout):
            found.evaluate({"run": True})
        stop.set()
        asking.result()
    assert answers
    assert all(answer is True for answer in answers)
    found.close()


def test_memory_is_limited() -> None:
    """A policy that eats memory is ended; the authorizer and the next request are not."""
    found = engine(HUNGRY, budget=60.0)
    with pytest.raises(EngineError):
        found.evaluate({"eat": True})
    assert found.evaluate({}) is True
    found.close()


def test_killed_workers_are_replaced() -> None:
    """Workers and a nursery that died between two requests cost no request anything."""
    before = processes_below(os.getpid())
    found = engine("package a\nr := input.n\n")
    asked = iter(range(100))
    for _ in range(3):
        killed = processes_below(os.getpid()) - before
        for process in killed:
            os.kill(process, signal.SIGKILL)
        while any(map(is_alive, killed)):
            time.sleep(0.01)
        for number in itertools.islice(asked, 4):
            assert found.evaluate({"n": number}) == number
    found.close()


def test_nothing_is_left_running() -> None:
    """An engine that nobody holds any more takes its processes along, busy ones too."""
    before = processes_below(os.getpid())
    found = engine(RUNAWAY, budget=30.0)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(found.evaluate, {"run": True})
        while not (processes_below(os.getpid()) - before):
            time.sleep(0.01)
        found.close()
        assert isinstance(busy.exception(), EngineError)
    del found, busy
    gc.collect()
    assert processes_below(os.getpid()) - before == set()


def test_many_threads_are_served_in_turn() -> None:
    """Many more threads than workers: each request is answered."""
    found = engine('package a\nr := concat("-", ["n", input.n])\n', budget=30.0)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: found.evaluate({"n": str(n)}), range(400)))
    assert answers == [f"n-{n}" for n in range(400)]
    found.close()


def test_nobody_waits_for_a_process_that_hangs() -> None:
    """A nursery that is stopped costs each request its own time alone; then it is replaced."""
    before = processes_below(os.getpid())
    found = engine("package a\nr := input.n\n", budget=0.2)
    pool = found._pool
    (nursery,) = (each for each in processes_below(os.getpid()) - before if processes_below(each))
    workers = processes_below(nursery)
    os.kill(nursery, signal.SIGSTOP)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    failures: list[str] = []
    for number in itertools.count():
        try:
            answer = pool.ask(f'{{"n": {number}}}'.encode(), 0.2)
        except EngineError as exc:
            failures.append(str(exc))
        else:
            break
    assert answer == str(number).encode()
    assert [each for each in failures if each.endswith(" within 200 ms")]
    assert not [each for each in failures if "stuck" in each]
    assert not is_alive(nursery)
    del found, pool
    for _ in range(3000):
        # A thread that starts a worker may be the last to hold the pool.
        gc.collect()
        if not processes_below(os.getpid()) - before:
            break
        time.sleep(0.01)
    assert not processes_below(os.getpid()) - before


def test_a_worker_that_fails_takes_no_other_along() -> None:
    """What ends one worker, whatever it is, is no end of those beside it."""
    before = processes_below(os.getpid())
    found = engine("package a\nr := input.n\n")
    (nursery,) = (each for each in processes_below(os.getpid()) - before if processes_below(each))
    workers = processes_below(nursery)
    # No entrypoint stands there: nobody has thought of this failure.
    with pytest.raises(EngineError, match="died of this request"):
        found._pool.ask(b"{}", 5.0, 60_000)
    assert len(workers) == 2
    while sum(map(is_alive, workers)) == 2:
        time.sleep(0.01)
    assert is_alive(nursery)
    assert found.evaluate({"n": 1}) == 1
    assert sum(map(is_alive, workers)) == 1
    found.close()


@pytest.mark.parametrize("again", [b"V\0\0\0\4true", b"V"])
def test_what_came_unasked_answers_nobody(again: bytes) -> None:
    """A second answer to one question is not taken for the first one to the next."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"V\0\0\0\5false" + again)
        with pytest.raises(PeerGone):
            receive_frame(ours, time.monotonic() + 5)
        theirs.sendall(again)
        assert _is_gone(_Worker(ours, 0, None))  # type: ignore[arg-type]  # nobody asks for it
