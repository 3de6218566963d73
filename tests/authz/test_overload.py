"""Overload: a burst is answered, a queue that stands is not, and nothing is let in for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait

import grpc
import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from authz.check_pool import CheckPool
from authz.grpc_server import SERVICE, GrpcServer
from authz.overload import Overload


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        """The time that the test sets."""
        return self.now


# Each step: when, how long the check waited, and whether it is refused.
_STORIES = {
    "a burst is answered": [(0.0, 0.05, False), (0.05, 0.09, False), (0.09, 0.0, False)],
    "a queue that stands": [
        (0.0, 0.05, False), (0.05, 0.06, False), (0.1, 0.05, True), (0.2, 0.3, True),
    ],
    "who waited little passes": [
        (0.0, 0.05, False), (0.1, 0.1, True), (0.1, 0.01, False),
    ],
    "and patience begins anew": [
        (0.0, 0.05, False), (0.1, 0.1, True), (0.1, 0.0, False), (0.11, 0.05, False),
        (0.2, 0.1, False), (0.22, 0.05, True),
    ],
    "two that are late with nobody between are no queue": [
        (0.0, 0.05, False), (5.0, 0.05, False), (9.0, 0.05, False), (9.04, 0.05, False),
    ],
    "nor is one after another": [(at / 10, 0.09, False) for at in range(9)],
}  # fmt: skip


@pytest.mark.parametrize("story", _STORIES.values(), ids=_STORIES.keys())
def test_who_is_refused(story: list[tuple[float, float, bool]]) -> None:
    """Checks are refused once all have waited too long for a while, and while they do."""
    clock = _Clock()
    overload = Overload(0.02, patience_seconds=0.1, clock=clock)

    for at, waited, is_refused in story:
        clock.now = at
        assert is_refused is overload.refuses(waited), (at, waited)

    assert sum(refused for _, _, refused in story) == overload.refused


def test_without_a_target_nobody_is_refused() -> None:
    """Zero turns it off."""
    clock = _Clock()
    overload = Overload(0.0, clock=clock)
    overload.refuses(9.0)
    clock.now = 9.0

    assert not overload.refuses(9.0)


def test_the_refusal_is_an_error_and_no_entry() -> None:
    """Envoy reads it as a failure of the authorizer, with 503 and the reason."""
    answer = CheckResponse.FromString(Overload(1.0).answer)

    assert 14 == answer.status.code
    assert 503 == answer.error_response.status.code
    assert not answer.HasField("ok_response")
    assert "overloaded" == answer.dynamic_metadata["reason"]


class _Held:
    """A pool of one thread that is held, with calls that came at given times behind it."""

    def __init__(self, times: list[float], overload: Overload | None, clock: _Clock) -> None:
        self._gate = threading.Event()
        self._pool = CheckPool(1, overload, clock)
        self._answered: list[tuple[float, bool]] = []
        held = threading.Event()
        self._calls = [self._pool.submit(lambda: (held.set(), self._gate.wait()))]
        assert held.wait(10)
        for clock.now in times:
            self._calls.append(self._pool.submit(self._answer, clock.now))

    def _answer(self, came: float) -> None:
        self._answered.append((came, self._pool.waited_too_long()))

    def go_on(self) -> list[tuple[float, bool]]:
        """Let the thread go on; returns when each call came and whether it is refused."""
        self._gate.set()
        wait(self._calls, 10)
        self._pool.shutdown()
        return self._answered


def test_who_came_first_is_answered_first() -> None:
    """While no queue stands, however late it is; and without a limit always."""
    clock = _Clock()
    for overload in (None, Overload(0.02, patience_seconds=99, clock=clock)):
        held = _Held([0.0, 1.0, 2.0], overload, clock)
        clock.now = 9.0

        assert [(0.0, False), (1.0, False), (2.0, False)] == held.go_on()


def test_of_a_queue_that_stands_the_newest_are_in_time() -> None:
    """The oldest and the newest are taken in turns: those refused, these answered."""
    clock = _Clock()
    overload = Overload(0.02, patience_seconds=0.1, clock=clock)
    held = _Held([5.0, 5.1, 5.2, 5.29, 5.3], overload, clock)
    _stand_since(5.05, overload, clock)

    assert [(5.0, True), (5.3, False), (5.1, True), (5.29, False), (5.2, True)] == held.go_on()
    assert 3 == overload.refused


def test_a_newest_that_is_late_is_refused_too() -> None:
    """Nobody who waited too long is answered while the queue stands."""
    clock = _Clock()
    overload = Overload(0.02, patience_seconds=0.1, clock=clock)
    held = _Held([5.0, 5.1], overload, clock)
    _stand_since(5.05, overload, clock)
    clock.now = 6.0

    assert [(5.0, True), (5.1, True)] == held.go_on()


def test_a_call_that_fails_is_told_and_the_thread_goes_on() -> None:
    """An exception is the caller's, as is an end of the program that the call asked for."""
    pool = CheckPool(1)
    failed = [pool.submit(_raise, error) for error in (ValueError("no"), SystemExit(3))]

    assert ["ValueError", "SystemExit"] == [type(each.exception(10)).__name__ for each in failed]
    assert 7 == pool.submit(lambda: 7).result(10)
    pool.shutdown()


def test_a_pool_that_is_shut_down_does_what_it_was_given() -> None:
    """Unless that is cancelled."""
    pool = CheckPool(2)
    done = [pool.submit(lambda number=number: number) for number in range(50)]
    pool.shutdown()

    assert list(range(50)) == [each.result(0) for each in done]


def _stand_since(moment: float, overload: Overload, clock: _Clock) -> None:
    now, clock.now = clock.now, moment
    overload.stands(1.0)
    clock.now = now


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.failure("overload")
def test_a_server_that_is_too_slow_refuses_the_rest() -> None:
    """Over real gRPC: some are answered, the others refused, and later all are answered."""
    allowed = CheckResponse()
    allowed.status.code = 0
    tick = threading.Event()

    def slow(message: bytes) -> bytes:
        tick.wait(0.02 if message else 0.0)
        return allowed.SerializeToString()

    overload = Overload(0.03, patience_seconds=0.05)
    server = GrpcServer("127.0.0.1:0", 1, slow, overload=overload)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            ask = channel.unary_unary(f"/{SERVICE}/Check")
            with ThreadPoolExecutor(40) as clients:
                answers = list(clients.map(ask, [b"slow"] * 120))
            later = [ask(b"") for _ in range(5)]
    finally:
        server.stop(1)

    refused = answers.count(overload.answer)
    assert 0 < refused < 120
    assert refused == overload.refused
    assert 120 - refused == answers.count(allowed.SerializeToString())
    assert [allowed.SerializeToString()] * 5 == later
