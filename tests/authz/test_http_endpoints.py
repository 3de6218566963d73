"""`/healthz`, `/readyz` and `/metrics` beside clients that break off, dawdle, or come in crowds."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from authz.http_endpoints import MOST_CONNECTIONS, HttpEndpoints
from tests.waiting import until

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@pytest.fixture
def served() -> Iterator[HttpEndpoints]:
    """Endpoints that are ready, with more metrics than a socket's buffers hold."""
    found = HttpEndpoints(
        "127.0.0.1",
        0,
        ready=lambda: (True, {"ready": True}),
        metrics=lambda: b"x" * 50_000_000,
        on_defect=_fail,
    )
    with closing(found):
        yield found


def _fail(defect: Exception) -> None:
    raise defect


def status_of(served: HttpEndpoints, path: str = "/readyz") -> int:
    """Return the status of an answer."""
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)) as client:
        client.request("GET", path)
        return client.getresponse().status


def threads() -> int:
    """How many threads answer somebody."""
    return sum("process_request_thread" in each.name for each in threading.enumerate())


@pytest.mark.parametrize("sent", [b"", b"GET /readyz", b"GET /metrics HTTP/1.1\r\n\r\n"])
def test_who_breaks_off_leaves_no_word_in_the_log(
    served: HttpEndpoints, capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    """A reset is the client's own affair; Python would write a trace, which is no line of JSON."""
    client = socket.create_connection(("127.0.0.1", served.port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    client.sendall(sent)
    until(lambda: threads() == 1)
    client.close()
    until(lambda: threads() == 0)
    assert 200 == status_of(served)

    assert ("", "") == capfd.readouterr()


@pytest.mark.parametrize("error", [LookupError("of a metric"), OSError("of a file")], ids=repr)
def test_a_defect_of_ours_is_told_to_both(error: Exception) -> None:
    """Who asked gets 500, and the log has it, also when it looks like a client's."""

    def fail() -> bytes:
        raise error

    told: list[Exception] = []
    found = HttpEndpoints(
        "127.0.0.1", 0, ready=lambda: (True, {}), metrics=fail, on_defect=told.append
    )
    with closing(found):
        assert 500 == status_of(found, "/metrics")
        assert 200 == status_of(found)

    assert [error] == told


def test_a_crowd_that_says_nothing_keeps_nobody_from_asking(served: HttpEndpoints) -> None:
    """Of more connections than there may be the oldest goes; a probe is answered all the same."""
    with ExitStack() as crowd:
        for _ in range(3 * MOST_CONNECTIONS):
            address = ("127.0.0.1", served.port)
            crowd.enter_context(socket.create_connection(address)).sendall(b"GET /")
        assert 200 == status_of(served)
        until(lambda: threads() <= MOST_CONNECTIONS)
    until(lambda: threads() == 0)
