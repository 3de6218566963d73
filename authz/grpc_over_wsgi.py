"""The Check and Health services as a WSGI application, for Envoy to put its HTTP/2 before.

Envoy has read a request whole before this hears of it, and took away what clients wrote into
the headers that it sets itself (`authz.envoy_bootstrap`). Every way out that is not the
answer of `check` is a gRPC error: nothing here can make an allow.

Spec: gRPC over HTTP/2 ("Length-Prefixed-Message", "Trailers-Only", "Timeout"); WSGI
(PEP 3333) with the extension `wsgi.ext.http.send_trailers`.
"""

from __future__ import annotations

import re
import threading
import time
from binascii import a2b_base64
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from authz.listening import Check
from authz.overload import Overload

SERVICE: Final = "envoy.service.auth.v3.Authorization"
CHECK_PATH: Final = f"/{SERVICE}/Check"
HEALTH_PATH: Final = "/grpc.health.v1.Health/Check"
ARRIVED_HEADER: Final = "x-meshwarden-arrived"
BODY_HEADER: Final = "x-meshwarden-body"
CLIENT_HEADER: Final = "x-meshwarden-client"
FROM_HEADER: Final = "x-meshwarden-from"
GRPC: Final = "application/grpc"
# BUDGET: Envoy's request headers and a buffered body; what is larger is no question for us.
MESSAGE_MAX: Final = 16 * 1024 * 1024
PREFIX_BYTES: Final = 5

_OK: Final = "0"
_DEADLINE_EXCEEDED: Final = "4"
_NOT_FOUND: Final = "5"
_PERMISSION_DENIED: Final = "7"
_RESOURCE_EXHAUSTED: Final = "8"
_UNIMPLEMENTED: Final = "12"
_INTERNAL: Final = "13"

_TYPES: Final = frozenset({GRPC, f"{GRPC}+proto"})
_HEADERS: Final = [("content-type", GRPC)]
_TRAILERS: Final = [("grpc-status", _OK)]
# Spec: gRPC over HTTP/2, "Timeout": at most eight digits and a unit.
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

Environ = Mapping[str, Any]
MayAsk = Callable[[str, str], bool]
"""A client's SPIFFE ID (empty: it has none) and where it calls from: whether it may ask."""


class _Failure(Exception):
    """A call that ends with a gRPC status other than OK."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


class CheckApplication:
    """The two services; safe from many threads."""

    def __init__(
        self,
        check: Check,
        *,
        metadata_key: str = "",
        may_ask: MayAsk | None = None,
        overload: Overload | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Answer with `check(message, forwarded, seconds=...)`; health says SERVING.

        `clock` is Envoy's: seconds since 1970, to which the time of arrival is held.
        """
        self._check = check
        self._metadata = _environ_name(metadata_key) if metadata_key else ""
        self._may_ask = may_ask
        self._overload = overload
        self._clock = clock
        self._is_red = False
        self._open = 0
        self._all_answered = threading.Condition()

    def turn_red(self) -> None:
        """Have health say NOT_SERVING; checks are answered still."""
        self._is_red = True

    def wait_until_answered(self, seconds: float) -> bool:
        """Wait for the end of open calls, and return whether there is none left."""
        with self._all_answered:
            return self._all_answered.wait_for(lambda: not self._open, seconds)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one call."""
        with self._all_answered:
            self._open += 1
        try:
            refused = _refusal_of_http(environ)
            if refused:
                start_response(refused, [])
                return ()
            try:
                answer = self._answer(environ)
            except _Failure as exc:
                start_response("200 OK", _failed(exc))
                return ()
            framed = b"\0" + len(answer).to_bytes(4, "big") + answer
            write = start_response("200 OK", _HEADERS)
            if _BODY_NAME in environ:
                # Envoy ends it with the status (`authz.envoy_short_way`).
                return (framed,)
            write(framed)
            # Order counts: trailers end the stream, and what is returned would come after them.
            environ["wsgi.ext.http.send_trailers"](_TRAILERS)
            return ()
        finally:
            with self._all_answered:
                self._open -= 1
                if not self._open:
                    self._all_answered.notify_all()

    def _answer(self, environ: Environ) -> bytes:
        body = _body(environ)
        path = environ.get("PATH_INFO", "")
        if path == CHECK_PATH:
            return self._answer_check(environ, body)
        if path == HEALTH_PATH:
            return self._health(_message(body))
        raise _Failure(_UNIMPLEMENTED, "no such method")

    def _answer_check(self, environ: Environ, body: bytes) -> bytes:
        waited = self._waited(environ)
        if self._overload is not None and self._overload.refuses(waited):
            return self._overload.answer
        if self._may_ask is not None:
            client, calls_from = _client(environ), environ.get(_FROM_NAME, "")
            if not self._may_ask(client, calls_from):
                raise _Failure(_PERMISSION_DENIED, "this client may not ask")
        seconds = _seconds_left(environ, waited)
        message = _message(body)
        if not self._metadata:
            return self._check(message, seconds=seconds)
        # Envoy's values of one name arrive joined; no SPIFFE ID has a comma.
        value = environ.get(self._metadata)
        forwarded = () if value is None else tuple(str(value).split(","))
        return self._check(message, forwarded, seconds=seconds)

    def _waited(self, environ: Environ) -> float:
        """Return the seconds since Envoy had the head of the call."""
        try:
            return max(0.0, self._clock() - float(environ[_ARRIVED_NAME]))
        except (KeyError, ValueError) as exc:
            raise _Failure(_INTERNAL, "the time of arrival is unknown") from exc

    def _health(self, message: bytes) -> bytes:
        try:
            service = health_pb2.HealthCheckRequest.FromString(message).service
        except DecodeError as exc:
            raise _Failure(_INTERNAL, "the message cannot be read") from exc
        if service not in ("", SERVICE):
            # Spec: grpc.health.v1: an unknown service is answered NOT_FOUND.
            raise _Failure(_NOT_FOUND, "unknown service")
        kinds = health_pb2.HealthCheckResponse
        status = kinds.NOT_SERVING if self._is_red else kinds.SERVING
        return bytes(kinds(status=status).SerializeToString())


def _refusal_of_http(environ: Environ) -> str:
    """Return the HTTP status of what is no gRPC, empty for what is."""
    # Spec: gRPC over HTTP/2: requests are POST, and another content type is answered with 415.
    if environ.get("REQUEST_METHOD") != "POST":
        return "405 Method Not Allowed"
    return "" if environ.get("CONTENT_TYPE") in _TYPES else "415 Unsupported Media Type"


def _body(environ: Environ) -> bytes:
    """Return what the client sent: as Envoy carried it, or as it is read."""
    carried = environ.get(_BODY_NAME)
    if carried is None:
        # WHY always: what is left unread has pyvoy write a line to standard error.
        return bytes(environ["wsgi.input"].read())
    try:
        return a2b_base64(carried, strict_mode=True)
    except ValueError as exc:
        raise _Failure(_INTERNAL, "the body was not carried whole") from exc


def _message(body: bytes) -> bytes:
    """Return the one message of a unary call."""
    if len(body) < PREFIX_BYTES:
        raise _Failure(_INTERNAL, "there is no message")
    if body[0]:
        # Spec: gRPC compression: an encoding that is not supported is UNIMPLEMENTED.
        raise _Failure(_UNIMPLEMENTED, "the message is compressed")
    length = int.from_bytes(body[1:PREFIX_BYTES], "big")
    if length > MESSAGE_MAX:
        raise _Failure(_RESOURCE_EXHAUSTED, "the message is too long")
    if length != len(body) - PREFIX_BYTES:
        raise _Failure(_INTERNAL, "the call does not hold one whole message")
    return body[PREFIX_BYTES:]


def _seconds_left(environ: Environ, waited: float) -> float | None:
    """Return what is left of the call's deadline, or None where it has none."""
    text = environ.get("HTTP_GRPC_TIMEOUT")
    if text is None:
        return None
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise _Failure(_INTERNAL, "the time-out cannot be read")
    left = int(match[1]) * _UNITS[match[2]] - waited
    if left <= 0:
        raise _Failure(_DEADLINE_EXCEEDED, "nobody waits any longer")
    return left


def _client(environ: Environ) -> str:
    """Return the one URI of a client's certificate; empty where there is none, or several."""
    uris = str(environ.get(_CLIENT_NAME, ""))
    # Envoy joins several by commas and writes `-` for none. Spec: X.509-SVID section 2: one URI.
    return "" if uris == "-" or "," in uris else uris


def _failed(failure: _Failure) -> list[tuple[str, str]]:
    """Return the headers of an answer that has nothing else (Trailers-Only)."""
    return [*_HEADERS, ("grpc-status", failure.status), ("grpc-message", quote(str(failure), " "))]


def _environ_name(header: str) -> str:
    """Return the name under which WSGI shows a header."""
    return "HTTP_" + header.upper().replace("-", "_")


_ARRIVED_NAME: Final = _environ_name(ARRIVED_HEADER)
_BODY_NAME: Final = _environ_name(BODY_HEADER)
_CLIENT_NAME: Final = _environ_name(CLIENT_HEADER)
_FROM_NAME: Final = _environ_name(FROM_HEADER)
