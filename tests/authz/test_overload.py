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
    "a queue that stands": [(0.0, 0.05, False), (0.1, 0.05, True), (0.2, 0.3, True)],
    "who waited little passes": [(0.0, 0.05, False), (0.1, 0.05, True), (0.1, 0.01, False)],
    "and patience begins anew": [
        (0.0, 0.05, False), (0.1, 0.05, True), (0.1, 0.0, False), (0.11, 0.05, False),
        (0.2, 0.05, False), (0.22, 0.05, True),
    ],
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


def test_a_pool_knows_how_long_a_call_waited() -> None:
    """The wait is that of the thread's own call, and none elsewhere."""
    clock = _Clock()
    pool = CheckPool(1, clock)
    gate = threading.Event()
    first = pool.submit(gate.wait)
    second = pool.submit(pool.waited)
    clock.now = 3.0
    gate.set()
    wait([first, second])

    assert 3.0 == second.result()
    assert 0.0 == pool.waited()


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
