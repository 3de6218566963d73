"""The gRPC listener: `envoy.service.auth.v3.Authorization/Check` and `grpc.health.v1`.

The handler takes and returns raw bytes; decoding is the pipeline's. Synchronous
server: see docs/decisions/0001.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from authz.check_pool import CheckPool
from authz.errors import ListenError
from authz.grpc_over_wsgi import MESSAGE_MAX, SERVICE
from authz.grpc_tls import admits, grpc_credentials
from authz.listener_tls import ListenerTls
from authz.listening import Check, ListeningParts
from authz.overload import Overload
from authz.ports import UNIX, check_that_it_is_free, remove_stale_socket

_METHOD = "Check"
# gRPC tells of a call without a deadline as of one that ends in centuries.
_NO_DEADLINE_SECONDS = 86_400.0
_OPTIONS = (("grpc.max_receive_message_length", MESSAGE_MAX),)
# BUDGET: checks that may wait for a thread, and before that for Python to hear of them; more would
# wait longer than Envoy does (200 ms). The library refuses them, the latter without Python: none
# below the first limit, all above the second, as if by lot in between.
_WAITING_MAX = 256
_UNHEARD = (
    ("grpc.server.max_pending_requests", 64),
    ("grpc.server.max_pending_requests_hard_limit", 128),
)


_Handle = Callable[[bytes, grpc.ServicerContext], bytes]


class GrpcServer:
    """The running gRPC listener."""

    def __init__(  # noqa: PLR0913 - two facts, the rest keyword-only
        self,
        address: str,
        threads: int,
        check: Check,
        *,
        metadata_key: str = "",
        timed: bool = False,
        tls: ListenerTls | None = None,
        overload: Overload | None = None,
        shares_port: bool = False,
    ) -> None:
        """Bind and begin to serve; health says SERVING.

        With a `metadata_key`, `check` also gets what the call's metadata holds under it;
        `timed`, also what is left of the call's deadline. With `tls`, only its clients ask;
        with `overload`, checks that wait too long are refused; with `shares_port`, other
        processes may listen on the same port.

        Raises:
            ListenError: the address cannot be bound.
        """
        self._pool = pool = CheckPool(threads, overload)
        self._server = grpc.server(
            pool,
            options=(("grpc.so_reuseport", int(shares_port)), *_OPTIONS, *_UNHEARD),
            maximum_concurrent_rpcs=threads + _WAITING_MAX,
        )
        handle = _check_handler(check, metadata_key, timed=timed)
        if overload is not None:
            handle = _unless_overloaded(overload, pool, handle)
        if tls is not None:
            handle = _only_admitted(tls, handle)
        # No (de)serializer: bytes in, bytes out.
        method = grpc.unary_unary_rpc_method_handler(handle)
        handlers = grpc.method_handlers_generic_handler(SERVICE, {_METHOD: method})
        self._server.add_generic_rpc_handlers((handlers,))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.port = _bind(self._server, address, tls)
        self._server.start()
        for name in ("", SERVICE):
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, drain_seconds: float) -> None:
        """Turn health red, let open checks finish, and stop."""
        self._health.enter_graceful_shutdown()
        self._server.stop(drain_seconds).wait()
        self._pool.shutdown(wait=False)


def open_grpc_server(parts: ListeningParts) -> GrpcServer:
    """Listen with gRPC's own library.

    Raises:
        ListenError: the address cannot be bound.
    """
    return GrpcServer(
        parts.listen.grpc,
        parts.listen.threads,
        parts.check,
        metadata_key=parts.metadata_key,
        timed=True,
        tls=parts.tls,
        overload=parts.overload,
        shares_port=parts.shares_port,
    )


def _check_handler(check: Check, metadata_key: str, *, timed: bool) -> _Handle:
    def handle(message: bytes, context: grpc.ServicerContext) -> bytes:
        more = {"seconds": _seconds_left(context)} if timed else {}
        if not metadata_key:
            return check(message, **more)
        found = (pair for pair in context.invocation_metadata() or () if pair[0] == metadata_key)
        return check(message, tuple(_text(value) for _, value in found), **more)

    return handle


def _only_admitted(tls: ListenerTls, handle: _Handle) -> _Handle:
    """Return a handler that answers nobody whom the listener's TLS does not admit."""

    def guarded(message: bytes, context: grpc.ServicerContext) -> bytes:
        if not admits(tls, context):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "this client may not ask")
        return handle(message, context)

    return guarded


def _unless_overloaded(overload: Overload, pool: CheckPool, handle: _Handle) -> _Handle:
    """Return a handler that does not look at checks which have waited too long."""

    def guarded(message: bytes, context: grpc.ServicerContext) -> bytes:
        if pool.waited_too_long():
            return overload.answer
        return handle(message, context)

    return guarded


def _seconds_left(context: grpc.ServicerContext) -> float | None:
    """Return what is left of the call's deadline, or None where it has none."""
    left = context.time_remaining()
    return left if left is not None and left < _NO_DEADLINE_SECONDS else None


def _text(value: str | bytes) -> str:
    """Return a metadata value as text; bytes come only under a key that ends in `-bin`."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def _bind(server: Any, address: str, tls: ListenerTls | None) -> int:
    """Bind the address and return the port (0 for a Unix socket)."""
    path = Path(address.removeprefix(UNIX)) if address.startswith(UNIX) else None
    if path is not None:
        remove_stale_socket(path)
    try:
        if tls is None:
            port = int(server.add_insecure_port(address))
        else:
            port = int(server.add_secure_port(address, grpc_credentials(tls)))
    except RuntimeError as exc:
        check_that_it_is_free(address)
        raise ListenError(f"`{address}` cannot be listened on: is it in use?") from exc
    if path is None:
        return port
    path.chmod(0o660)
    return 0
