"""Check and Health as a WSGI application: what is no call gets a gRPC error, never an answer."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterable
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from hypothesis import given
from hypothesis import strategies as st

from authz.grpc_over_wsgi import CHECK_PATH, HEALTH_PATH, CheckApplication
from authz.overload import Overload

NOW = 1_000_000.5
ANSWER = b"the answer"
MESSAGE = b"the question"


def framed(message: bytes) -> bytes:
    """Return a message as gRPC sends it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


FRAMED = framed(MESSAGE)


class Asked:
    """A check that keeps what it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(
        self, message: bytes, forwarded: tuple[str, ...] = (), seconds: float | None = None
    ) -> bytes:
        """Return the answer."""
        self.calls.append((message, forwarded, seconds))
        return ANSWER


class Call:
    """One call of an application, and what came back."""

    def __init__(self, application: CheckApplication, body: bytes = FRAMED, **environ: Any) -> None:
        self.body = b""
        self.trailers: dict[str, str] = {}
        rest = application(
            {
                "REQUEST_METHOD": "POST",
                "PATH_INFO": CHECK_PATH,
                "CONTENT_TYPE": "application/grpc",
                "HTTP_X_MESHWARDEN_ARRIVED": f"{NOW}",
                "wsgi.input": io.BytesIO(body),
                "wsgi.ext.http.send_trailers": self._end,
                **environ,
            },
            self._start,
        )
        returned = b"".join(rest)
        self.body += returned
        if returned and "HTTP_X_MESHWARDEN_BODY" in environ:
            # As Envoy ends what is returned (`authz.envoy_short_way`).
            self._end([("grpc-status", "0")])

    @property
    def status(self) -> str:
        """The gRPC status, or the HTTP status where there is none."""
        return self.trailers.get("grpc-status") or self.headers.get("grpc-status") or self.http

    def _start(self, http: str, headers: Iterable[tuple[str, str]]) -> Any:
        self.http, self.headers = http, dict(headers)
        return self._write

    def _write(self, data: bytes) -> None:
        assert not self.trailers, "trailers end the stream"
        self.body += data

    def _end(self, trailers: Iterable[tuple[str, str]]) -> None:
        self.trailers = dict(trailers)


def make(check: Asked | None = None, **more: Any) -> CheckApplication:
    """Return an application at a fixed time."""
    return CheckApplication(check or Asked(), clock=lambda: NOW, **more)


def test_a_check_is_one_message_each_way() -> None:
    """The message goes in without its frame, the answer out with one, and trailers say OK."""
    check = Asked()

    call = Call(make(check))

    assert [(MESSAGE, (), None)] == check.calls
    assert b"\0\0\0\0\x0a" + ANSWER == call.body
    assert {"grpc-status": "0"} == call.trailers


@pytest.mark.parametrize(
    ("body", "environ", "status"),
    [
        (b"", {}, "13"),
        (FRAMED[:4], {}, "13"),
        (FRAMED[:-1], {}, "13"),
        (FRAMED + b"\0", {}, "13"),
        (FRAMED + FRAMED, {}, "13"),
        (b"\1" + FRAMED[1:], {}, "12"),
        (b"\0\x01\0\0\x01" + b"x", {}, "8"),
        (FRAMED, {"PATH_INFO": "/envoy.service.auth.v3.Authorization/check"}, "12"),
        (FRAMED, {"PATH_INFO": "/envoy.service.auth.v3.Authorization"}, "12"),
        (FRAMED, {"PATH_INFO": "/grpc.health.v1.Health/Watch"}, "12"),
        (FRAMED, {"CONTENT_TYPE": "application/json"}, "415 Unsupported Media Type"),
        (FRAMED, {"REQUEST_METHOD": "GET"}, "405 Method Not Allowed"),
        (FRAMED, {"CONTENT_TYPE": None}, "415 Unsupported Media Type"),
        (FRAMED, {"HTTP_GRPC_TIMEOUT": "100"}, "13"),
        (FRAMED, {"HTTP_GRPC_TIMEOUT": "123456789m"}, "13"),
        (FRAMED, {"HTTP_GRPC_TIMEOUT": "0m"}, "4"),
        (FRAMED, {"HTTP_X_MESHWARDEN_ARRIVED": "1,2"}, "13"),
        (FRAMED, {"HTTP_X_MESHWARDEN_ARRIVED": ""}, "13"),
        (b"\0\0\0\0\1\xff", {"PATH_INFO": HEALTH_PATH}, "13"),
        (b"\0\0\0\0\5\n\3abc", {"PATH_INFO": HEALTH_PATH}, "5"),
    ],
)
def test_what_is_no_call_is_an_error(body: bytes, environ: dict[str, Any], status: str) -> None:
    """Nobody is asked, and no message is answered."""
    check = Asked()

    call = Call(make(check), body, **environ)

    assert (status, b"", []) == (call.status, call.body, check.calls)


@given(body=st.binary(max_size=40), timeout=st.none() | st.text(max_size=10))
def test_no_bytes_make_an_answer_that_no_check_gave(body: bytes, timeout: str | None) -> None:
    """Whatever comes, an answer is the check's own, to the one message there was."""
    check = Asked()
    environ = {} if timeout is None else {"HTTP_GRPC_TIMEOUT": timeout}

    call = Call(make(check), body, **environ)

    is_whole = body[:1] == b"\0" and int.from_bytes(body[1:5], "big") == len(body) - 5
    assert bool(call.body) == bool(check.calls) == (call.status == "0")
    assert is_whole or not check.calls


@given(
    body=st.binary(max_size=40) | st.binary(max_size=40).map(framed),
    environ=st.fixed_dictionaries(
        {},
        optional={
            "HTTP_GRPC_TIMEOUT": st.sampled_from(["1S", "0m", "soon"]),
            "PATH_INFO": st.sampled_from([CHECK_PATH, HEALTH_PATH, "/x"]),
            "CONTENT_TYPE": st.sampled_from(["application/grpc+proto", "text/plain"]),
        },
    ),
)
def test_a_body_that_envoy_carried_is_the_body(body: bytes, environ: dict[str, str]) -> None:
    """The short way asks and answers as the long way does, and reads nothing."""
    long, short = Asked(), Asked()
    carried = {"HTTP_X_MESHWARDEN_BODY": b64encode(body).decode(), "wsgi.input": None}

    by_long, by_short = Call(make(long), body, **environ), Call(make(short), **environ, **carried)

    assert long.calls == short.calls
    assert (by_long.status, by_long.body) == (by_short.status, by_short.body)
    assert by_long.trailers == by_short.trailers


@pytest.mark.parametrize("carried", ["x", "====", "AAAA\n", "AA AA", "AAAAAA==A", "\u00e9"])
def test_a_body_that_was_not_carried_whole_is_an_error(carried: str) -> None:
    """Nothing is read out of what Envoy never writes."""
    check = Asked()

    call = Call(make(check), HTTP_X_MESHWARDEN_BODY=carried)

    assert ("13", b"", []) == (call.status, call.body, check.calls)


@pytest.mark.parametrize(
    ("timeout", "waited", "left"),
    [("200m", 0.0, 0.2), ("200m", 0.05, 0.15), ("2S", 0.5, 1.5), ("1H", 0, 3600), (None, 0, None)],
)
def test_a_deadline_counts_from_the_arrival(
    timeout: str | None, waited: float, left: float | None
) -> None:
    """The check is told what is left of the caller's time-out."""
    check = Asked()
    environ = {} if timeout is None else {"HTTP_GRPC_TIMEOUT": timeout}

    Call(make(check), HTTP_X_MESHWARDEN_ARRIVED=f"{NOW - waited:.6f}", **environ)

    assert [(MESSAGE, (), left if left is None else pytest.approx(left, abs=1e-4))] == check.calls


@pytest.mark.parametrize(
    ("value", "forwarded"), [(None, ()), ("spiffe://a/b", ("spiffe://a/b",)), ("a,b", ("a", "b"))]
)
def test_the_forwarded_peer_is_told(value: str | None, forwarded: tuple[str, ...]) -> None:
    """Several values stay several: which of them counts is not for the way to say."""
    check = Asked()
    environ = {} if value is None else {"HTTP_X_PEER": value}

    Call(make(check, metadata_key="x-peer"), **environ)

    assert [(MESSAGE, forwarded, None)] == check.calls


@pytest.mark.parametrize(
    ("uris", "seen"),
    [("spiffe://a/b", "spiffe://a/b"), ("-", ""), ("", ""), ("spiffe://a/b,spiffe://a/c", "")],
)
def test_a_client_is_known_by_its_one_uri(uris: str, seen: str) -> None:
    """None and several are no name, and who is not admitted is told PERMISSION_DENIED."""
    asked: list[str] = []

    def nobody(client: str, calls_from: str) -> bool:
        asked.append(client)
        return False

    check = Asked()
    call = Call(make(check, may_ask=nobody), HTTP_X_MESHWARDEN_CLIENT=uris)

    assert ([seen], "7", []) == (asked, call.status, check.calls)


def test_what_waited_too_long_is_refused_unread() -> None:
    """Once the queue stands, a late check gets the answer of the overloaded."""
    clock = iter(range(100))
    overload = Overload(0.02, patience_seconds=1, clock=lambda: float(next(clock)))
    check = Asked()
    application = make(check, overload=overload)
    # Longer than from one look at the clock to the next: the queue stood all the while.
    late = {"HTTP_X_MESHWARDEN_ARRIVED": f"{NOW - 1.5:.6f}"}

    first, second = Call(application, **late), Call(application, **late)

    assert (1, 1) == (len(check.calls), overload.refused)
    assert ANSWER in first.body
    assert overload.answer in second.body


def test_health_turns_red() -> None:
    """SERVING until it is to stop, for the server and for the service."""
    application = make()
    asked = health_pb2.HealthCheckRequest(service="envoy.service.auth.v3.Authorization")
    raw = asked.SerializeToString()
    bodies = [b"\0\0\0\0\0", b"\0" + len(raw).to_bytes(4, "big") + raw]

    def told() -> set[int]:
        calls = [Call(application, body, PATH_INFO=HEALTH_PATH) for body in bodies]
        return {health_pb2.HealthCheckResponse.FromString(call.body[5:]).status for call in calls}

    assert {health_pb2.HealthCheckResponse.SERVING} == told()
    application.turn_red()
    assert {health_pb2.HealthCheckResponse.NOT_SERVING} == told()
    assert application.wait_until_answered(0)
