"""The CA as a process: authority, renewals and sockets brought up, kept up and drained.

`serve` is the whole of `meshwarden ca serve`; it returns after SIGTERM, SIGINT or `stop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import structlog
from envoy.service.secret.v3.sds_pb2_grpc import add_SecretDiscoveryServiceServicer_to_server

from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.board import SecretBoard
from ca.clock import Clock, utc_now
from ca.errors import SocketError
from ca.issue import SvidRequest
from ca.keys import FileKeyStore
from ca.renewal import RecordIssuance, Renewal, RenewalParts
from ca.sds import SecretDiscovery
from ca.settings import CaSettings, CaWorkload
from ca.sockets import check_socket_mode, prepare_socket_path, private_umask, remove_socket
from ca.state import StateFolder
from ca.svid import X509Svid

_log = structlog.get_logger(__name__)
_DRAIN_SECONDS = 2.0
# BUDGET: secret requests are a name and a node description; more is no proxy. The pending limits
# let a thousand streams reconnect in one burst (the defaults fail a third of them).
_SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ("grpc.so_reuseport", 0),
)


def _record_nothing(_: X509Svid) -> None:
    """Keep no record beyond the log line that every issuance writes."""


async def serve(
    settings: CaSettings,
    *,
    ready: Callable[[], None] | None = None,
    stop: asyncio.Event | None = None,
    record: RecordIssuance = _record_nothing,
    clock: Clock = utc_now,
) -> None:
    """Serve every workload of `settings` until SIGTERM, SIGINT, or `stop` is set.

    `ready` is called once when every socket answers with a certificate. Relative paths in
    `settings` are taken from the working folder; see `CaSettings.resolved`.

    Raises:
        CaError: the authority or a socket could not be brought up; nothing is left listening.
    """
    stop = stop or asyncio.Event()
    with StateFolder(settings.state_folder) as state, _stopped_by_signals(stop):
        keeper = AuthorityKeeper(state, FileKeyStore(state.keys_folder), _plan(settings), clock)
        parts = RenewalParts(
            authority=keeper.current,
            record=record,
            clock=clock,
            random=random.SystemRandom().random,
        )
        async with AsyncExitStack() as stack:
            due = [
                (renewal, renewal.issue())
                for renewal in [
                    await _open(stack, keeper, settings, workload, parts)
                    for workload in settings.workloads
                ]
            ]
            _log.info("ca_ready", trust_domain=settings.trust_domain, sockets=len(due))
            if ready is not None:
                ready()
            async with asyncio.TaskGroup() as renewals:
                for renewal, due_at in due:
                    renewals.create_task(renewal.run(due_at, stop))
            _log.info("ca_draining")


async def _open(
    stack: AsyncExitStack,
    keeper: AuthorityKeeper,
    settings: CaSettings,
    workload: CaWorkload,
    parts: RenewalParts,
) -> Renewal:
    """Bind a workload's socket until `stack` closes; return what keeps its certificate fresh."""
    board = SecretBoard(workload.identity, parts.clock)
    board.publish_trust(keeper.current().roots)
    server = await _listen(workload.socket, board)
    stack.push_async_callback(_drain, server, workload.socket, board)
    return Renewal(board, _request(settings, workload), parts)


def _plan(settings: CaSettings) -> AuthorityPlan:
    """Return what the settings say of the authority."""
    return AuthorityPlan(
        trust_domain=settings.domain,
        root_lifetime=timedelta(days=settings.root_lifetime_days),
        intermediate_lifetime=timedelta(days=settings.intermediate_lifetime_days),
    )


def _request(settings: CaSettings, workload: CaWorkload) -> SvidRequest:
    """Return what a workload is issued."""
    return SvidRequest(
        spiffe_id=workload.identity,
        lifetime=timedelta(seconds=settings.svid_lifetime_seconds),
        dns_names=workload.dns_names,
    )


async def _listen(path: Path, board: SecretBoard) -> Any:
    """Bind one workload's socket; return the started gRPC server."""
    prepare_socket_path(path)
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    add_SecretDiscoveryServiceServicer_to_server(SecretDiscovery(board), server)
    try:
        with private_umask():
            server.add_insecure_port(f"unix:{path}")
        check_socket_mode(path)
    except RuntimeError as exc:
        raise SocketError(f"socket `{path}` cannot be bound") from exc
    await server.start()
    return server


async def _drain(server: Any, path: Path, board: SecretBoard) -> None:
    """End the open streams, stop the server, and take its socket away."""
    board.close()
    await server.stop(_DRAIN_SECONDS)
    remove_socket(path)


@contextmanager
def _stopped_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on SIGTERM and SIGINT; only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in numbers:
            with contextlib.suppress(ValueError):
                loop.remove_signal_handler(number)
