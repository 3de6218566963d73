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
from functools import partial
from pathlib import Path
from typing import Any

import grpc.aio
import structlog
from envoy.service.secret.v3.sds_pb2_grpc import add_SecretDiscoveryServiceServicer_to_server

from ca.authority import AuthorityKeeper
from ca.board import SecretBoard
from ca.caller import Caller, Method
from ca.clock import Clock, ClockWatch, utc_now
from ca.commands import slot_commands
from ca.control import control_socket
from ca.delivery import deliver
from ca.errors import CaError, SocketError
from ca.federation import federate
from ca.issue import SvidRequest
from ca.key_kinds import KeyKind, generate_key
from ca.keys import KeyStore
from ca.last_leaf import LastLeaf
from ca.metrics import CaMetrics
from ca.opening import authority_stores, plan_of, publication_of
from ca.records_service import keep_records
from ca.renewal import RecordIssuance, Renewal, RenewalParts
from ca.rotation import Rotation
from ca.running import RunningCa, Service
from ca.sds import SecretDiscovery
from ca.settings import CaSettings, CaWorkload
from ca.sockets import check_socket_mode, prepare_socket_path, private_umask, remove_socket
from ca.state import Phase, StateFolder
from ca.status import (
    authority_troubles,
    clock_troubles,
    renewal_troubles,
    status_of,
    stream_troubles,
)
from ca.streams import OpenStreams
from ca.svid import X509Svid
from identity.jwks import Jwk

_log = structlog.get_logger(__name__)
_DRAIN_SECONDS = 2.0
# BUDGET: how late a step by age, or a jump of the clock, may be noticed.
_WATCH_SECONDS = 5.0
# BUDGET: how late what another replica did may be noticed.
_SHARED_WATCH_SECONDS = 1.0
# BUDGET: secret requests are a name and a node description; more is no proxy. The pending limits
# let a thousand streams reconnect in one burst (the defaults fail a third of them).
_SERVER_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ("grpc.so_reuseport", 0),
)


async def serve(
    settings: CaSettings,
    *,
    ready: Callable[[], None] | None = None,
    stop: asyncio.Event | None = None,
    record: RecordIssuance | None = None,
    clock: Clock = utc_now,
    services: Sequence[Service] = (),
) -> None:
    """Serve every workload of `settings` until SIGTERM, SIGINT, or `stop` is set.

    `ready` is called once when every socket answers with a certificate. Relative paths in
    `settings` are taken from the working folder; see `CaSettings.resolved`. `record` keeps what is
    issued to configured workloads: in ledger and audit chain, unless it is given. `services` are
    further ways to reach the CA, opened in their order before the sockets and closed after them.

    Raises:
        CaError: the authority or a socket could not be brought up; nothing is left listening.
    """
    stop = stop or asyncio.Event()
    with (
        StateFolder(settings.state_folder) as state,
        authority_stores(settings, state, clock) as stores,
        _stopped_by_signals(stop),
    ):
        keeper = AuthorityKeeper(stores.manifest, stores.keys, plan_of(settings, clock), clock)
        ca = _running(settings, keeper, stores.keys, clock)
        ca.rotation.replicas = stores.replicas
        async with AsyncExitStack() as stack:
            for service in (keep_records, control_socket, federate, deliver, *services):
                await stack.enter_async_context(service(ca))
            ca.rotation.record = ca.books.desk.record_rotation
            if record is None:
                # Everything that is issued stands in the ledger then.
                ca.rotation.last_leaf = LastLeaf(ca.books.store, keeper.plan.leaf_lifetime)
            renewals = [
                await _open(stack, ca, workload, _parts(ca, record))
                for workload in settings.workloads
            ]
            _keep_up(ca, renewals)
            due = [(renewal, renewal.issue()) for renewal in renewals]
            _log.info("ca_ready", trust_domain=settings.trust_domain, sockets=len(due))
            if ready is not None:
                ready()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_watch(ca, stop))
                for renewal, due_at in due:
                    tasks.create_task(renewal.run(due_at, stop))
            _log.info("ca_draining")


def _running(
    settings: CaSettings, keeper: AuthorityKeeper, keys: KeyStore, clock: Clock
) -> RunningCa:
    """Return the parts that services share, with the commands and probes of the slots."""
    streams, watch = OpenStreams(), ClockWatch(clock)
    wait = timedelta(seconds=settings.rotation_wait_seconds)
    rotation = Rotation(keeper, streams, clock, wait)
    rotation.publication = publication_of(settings)
    metrics = CaMetrics()
    metrics.observe(keeper, streams, clock)
    ca = RunningCa(
        settings=settings,
        keeper=keeper,
        keys=keys,
        rotation=rotation,
        streams=streams,
        metrics=metrics,
        clock=clock,
        clock_watch=watch,
        started_at=clock(),
    )
    ca.probes += [
        lambda: authority_troubles(keeper, clock()),
        lambda: stream_troubles(streams, clock()),
        lambda: clock_troubles(watch),
    ]

    def jwt_authorities() -> Sequence[Jwk]:
        # Read late: a service may put its own in place.
        return ca.jwt_authorities()

    ca.commands |= slot_commands(settings, keeper, rotation, clock, jwt_authorities)
    ca.commands["status"] = lambda _: status_of(ca)
    return ca


def _parts(ca: RunningCa, record: RecordIssuance | None) -> RenewalParts:
    """Return what the renewals of workloads need."""
    return RenewalParts(
        authority=ca.keeper.current,
        record=record or partial(_record, ca),
        clock=ca.clock,
        random=random.SystemRandom().random,
        new_key=partial(generate_key, KeyKind(ca.settings.svid_key)),
        count_issued=ca.metrics.issued.labels(kind="x509_sds").inc,
        count_late=ca.metrics.renewals_late.inc,
    )


def _record(ca: RunningCa, svid: X509Svid) -> None:
    """Record an SVID of a configured workload: its socket is who asks."""
    ca.books.issuance.record_svid(svid, Caller(method=Method.SOCKET, granted=svid.spiffe_id))


def _keep_up(ca: RunningCa, renewals: Sequence[Renewal]) -> None:
    """Push new roots to every board at once, and then certificates of a new authority."""
    loop, signers = asyncio.get_running_loop(), [ca.keeper.current().number]

    def update() -> None:
        for board in ca.boards:
            _publish_trust(ca, board)
        active = ca.keeper.in_phase(Phase.ACTIVE)
        if active is not None and active.number != signers[0]:
            signers[0] = active.number
            for renewal in renewals:
                renewal.renew_early()

    ca.probes.append(lambda: renewal_troubles(renewals, ca.clock()))

    # Slots and denials may be changed from another thread; boards belong to this loop.
    ca.keeper.on_change(lambda: _soon(loop, update))
    ca.books.registry.on_change(lambda: _soon(loop, partial(_withdraw_denied, ca, renewals)))
    # Called on this loop, by the service that looks for them.
    ca.on_federated.append(update)


def _soon(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Let `act` run on the loop, whichever thread asks for it."""
    loop.call_soon_threadsafe(act)


def _withdraw_denied(ca: RunningCa, renewals: Sequence[Renewal]) -> None:
    """Take down what is denied; only a certificate or a key may be, then there is another."""
    state, now = ca.books.registry.state, ca.clock()
    for renewal in renewals:
        svid = renewal.board.svid
        if svid is not None and state.denial_of(svid.spiffe_id, svid.leaf, now) is not None:
            renewal.board.withdraw_svid()
            renewal.renew_early()


async def _watch(ca: RunningCa, stop: asyncio.Event) -> None:
    """Take the steps that come by age, and notice jumps of the clock, until `stop` is set."""
    while not stop.is_set():
        jump = ca.clock_watch.check()
        if jump is not None:
            _log.warning("clock_jumped", seconds=jump.total_seconds())
            ca.rotation.note_clock_jump()
        try:
            if ca.rotation.replicas is not None:
                await asyncio.to_thread(ca.keeper.refresh)
                acknowledged = ca.rotation.acknowledged()
                await asyncio.to_thread(ca.rotation.replicas.report, acknowledged)
            await asyncio.to_thread(ca.rotation.record_pending)
            ca.keeper.current()
            ca.rotation.advance()
        except CaError as exc:
            _log.error("authority_step_failed", error=str(exc), code=exc.code)
        with contextlib.suppress(TimeoutError):
            seconds = _WATCH_SECONDS if ca.rotation.replicas is None else _SHARED_WATCH_SECONDS
            await asyncio.wait_for(stop.wait(), seconds)


async def _open(
    stack: AsyncExitStack, ca: RunningCa, workload: CaWorkload, parts: RenewalParts
) -> Renewal:
    """Bind a workload's socket until `stack` closes; return what keeps its certificate fresh."""
    board = SecretBoard(workload.identity, ca.clock)
    _publish_trust(ca, board)
    ca.boards.append(board)
    server = await _listen(workload.socket, board, ca.streams)
    stack.push_async_callback(_drain, server, workload.socket, board)
    return Renewal(board, _request(ca.settings, workload), parts)


def _publish_trust(ca: RunningCa, board: SecretBoard) -> None:
    """Put up the roots of the moment: our own, and those of other trust domains."""
    board.publish_trust(ca.keeper.roots, sequence=ca.keeper.sequence, federated=ca.federated())


def _request(settings: CaSettings, workload: CaWorkload) -> SvidRequest:
    """Return what a workload is issued."""
    return SvidRequest(
        spiffe_id=workload.identity,
        lifetime=timedelta(seconds=settings.svid_lifetime_seconds),
        dns_names=workload.dns_names,
    )


async def _listen(path: Path, board: SecretBoard, streams: OpenStreams) -> Any:
    """Bind one workload's socket; return the started gRPC server."""
    prepare_socket_path(path)
    server = grpc.aio.server(options=_SERVER_OPTIONS)
    add_SecretDiscoveryServiceServicer_to_server(SecretDiscovery(board, streams), server)
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
