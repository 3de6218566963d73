"""`meshwarden serve`: the parts joined, kept running, and drained on a signal."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from audit.open_log import OpenLog
from authz.audit_parts import open_audit
from authz.build import build_state
from authz.bundle_parts import build_bundle_watch, watch_bundles
from authz.candidate_parts import Candidate
from authz.decision_memory import memory_for
from authz.deny_list_parts import find_denied, open_deny_list, with_deny_list
from authz.explain.trace import tracer
from authz.http_endpoints import HttpEndpoints
from authz.interpreter import set_up_for_serving
from authz.listener_tls_parts import Readiness, open_listener_tls, with_listener_tls
from authz.listening import ListeningParts, OpenListener
from authz.metrics import Metrics
from authz.open_files import allow_as_many_as_there_may_be
from authz.pipeline import Authorizer, DecisionSpans
from authz.policy_bundle_parts import PolicyBundles, TakeBundle, watch_policy_bundles
from authz.policy_metrics import enforced_names
from authz.policy_reading import PolicyReading
from authz.ports import cannot_listen
from authz.provider_memory import ProviderMemory
from authz.provider_metrics import ProviderMetrics
from authz.reload import StateKeeper
from authz.serving_state import ServingState
from authz.serving_watch import (
    LateAudit,
    note_reload,
    note_state,
    readiness,
    watch_keys,
    watch_overload,
)
from authz.settings import ListenSettings, Settings, WorkloadSettings
from authz.token_parts import TokenParts, build_token_parts
from authz.walk import Surroundings
from identity.bundle_watch import BundleWatch
from identity.deny_list import DenyListWatch
from policies.diagnostic import Diagnostic
from policies.request import Workload

_log = structlog.get_logger(__name__)
_LATE_INSIDE_ENVOY: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Which of several workers a server is; alone it has no name.

    `listening` is told the port of the HTTP endpoints once checks are answered; with
    `shares_port` others listen on the same port for checks.
    """

    worker: str = ""
    shares_port: bool = False
    listening: Callable[[int], None] = lambda port: None


ALONE = Seat()


def serve(
    settings: Settings,
    *,
    stop: threading.Event | None = None,
    seat: Seat = ALONE,
    open_listener: OpenListener | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT, or `stop` is set; then drain and return.

    Without `open_listener` grpcio listens.

    Raises:
        LoadError: policies or Rego cannot be loaded; nothing was started.
        AuditError: the audit folder cannot be used.
        ListenError: an address cannot be bound.
        IdentityError: a secret or a trust bundle cannot be read.
    """
    stop = stop or threading.Event()
    _stop_on_signals(stop)
    with ExitStack() as stack:
        house = _open_house(settings, stack)
        log = _open_log(house, seat, stack)
        house.metrics.by_policy.watch(lambda: enforced_names(house.keeper.current()))
        watch_keys(house.metrics, house.tokens.keys)
        watch_bundles(house.metrics, house.bundles)
        watch_policy_bundles(house.metrics.registry, house.policy_bundles)
        around = _surroundings(house)
        candidate = _start_candidate(house, around, stack)
        if candidate is not None:
            around = replace(around, candidate=candidate.shadow.verdict)
        authorizer = Authorizer(
            state=house.keeper.current,
            around=around,
            recorder=log.writer,
            metrics=house.metrics,
            trace=tracer(settings.audit),
            spans=_open_spans(settings, stack),
            memory=memory_for(settings),
        )
        set_up_for_serving()
        allow_as_many_as_there_may_be()
        _begin_to_watch(house, candidate, stack)
        ready = readiness(
            house.keeper, log, house.tokens.keys, house.bundles, stop, house.policy_bundles
        )
        ready = with_deny_list(ready, house.denied)
        serving = _Serving(authorizer=authorizer, ready=ready, metrics=house.metrics, stop=stop)
        _run(settings, serving, seat, open_listener or _grpcio())
    _log.info("stopped")


def _grpcio() -> OpenListener:
    from authz.grpc_server import open_grpc_server  # noqa: PLC0415 - nothing for servers in Envoy

    return open_grpc_server


def _open_spans(settings: Settings, stack: ExitStack) -> DecisionSpans | None:
    """Return what makes spans, or None where none are wanted: then nothing of it is imported."""
    if settings.tracing is None:
        return None
    from authz.tracing import Spans  # noqa: PLC0415 - off by default, and of an extra

    spans = Spans(settings.tracing, settings.audit.node_name or socket.gethostname())
    stack.callback(spans.close)
    return spans


@dataclass(frozen=True, slots=True, kw_only=True)
class _House:
    """The parts that a server is made of, policies loaded, nothing watched yet."""

    settings: Settings
    tokens: TokenParts
    bundles: BundleWatch
    denied: DenyListWatch | None
    policy_bundles: PolicyBundles
    keeper: StateKeeper
    build: Callable[[TakeBundle], ServingState]
    reading: PolicyReading
    audit: LateAudit
    metrics: Metrics = field(default_factory=Metrics)


def _open_house(settings: Settings, stack: ExitStack) -> _House:
    """Load everything that the configuration names; `stack` lets go of it."""
    tokens = build_token_parts(settings.identity)
    stack.callback(tokens.close)
    bundles = build_bundle_watch(settings.identity)
    stack.callback(bundles.stop)
    metrics, audit = Metrics(), LateAudit()
    denied = open_deny_list(settings.identity, metrics, stack)
    policy_bundles = PolicyBundles(settings.bundles)
    stack.callback(policy_bundles.stop)
    memory, reading = ProviderMemory(), PolicyReading()

    def build(take: TakeBundle) -> ServingState:
        return build_state(
            settings, tokens.keys, take=take, memory=memory, snapshot_of_texts=reading.snapshot
        )

    keeper = StateKeeper(
        policy_bundles.begin(build),
        watched_paths(settings),
        interval_seconds=settings.policies.reload_seconds,
        on_reload=lambda loaded, problems: note_reload(metrics, audit, loaded, problems),
        hand_over=reading.hand_over,
        let_go=reading.let_go,
    )
    note_state(metrics, keeper.current())
    return _House(
        settings=settings,
        tokens=tokens,
        bundles=bundles,
        denied=denied,
        policy_bundles=policy_bundles,
        keeper=keeper,
        build=build,
        reading=reading,
        audit=audit,
        metrics=metrics,
    )


def _open_log(house: _House, seat: Seat, stack: ExitStack) -> OpenLog:
    """Open the record, which reloads are told to from now on."""
    revision = house.keeper.current().revision
    log = open_audit(house.settings.audit, house.metrics, revision=revision, worker=seat.worker)
    stack.callback(log.close)
    house.audit.writer = log.writer
    return log


def _surroundings(house: _House) -> Surroundings:
    """Return what a walk needs besides the request and the state."""
    settings, tokens = house.settings, house.tokens
    provider_metrics = ProviderMetrics(house.metrics.registry, house.keeper.current)
    return Surroundings(
        keys=tokens.keys,
        on_unknown_key=tokens.keys.hasten,
        verify_token=tokens.verify,
        static_workload=static_workload(settings.workload),
        headers=settings.identity_headers,
        peer_rules=settings.identity.to_peer_rules(find_denied(house.denied)),
        bundles=house.bundles.current,
        observe=provider_metrics.observe,
    )


def _start_candidate(house: _House, around: Surroundings, stack: ExitStack) -> Candidate | None:
    """Return the running candidate set, where one is configured."""
    if house.settings.dryrun.candidate is None:
        return None
    candidate = Candidate(house.settings, around, house.metrics, take=house.policy_bundles.take)
    stack.callback(candidate.stop)
    candidate.start()
    return candidate


def _begin_to_watch(house: _House, candidate: Candidate | None, stack: ExitStack) -> None:
    """Follow bundles and files from now on."""

    def adopt(take: TakeBundle, keep: Callable[[], None]) -> Sequence[Diagnostic]:
        problems = house.keeper.adopt(lambda: house.build(take), keep)
        if candidate is not None and not problems:
            candidate.refresh()
        return problems

    house.bundles.start()
    house.reading.begin_serving()
    house.policy_bundles.start(adopt)
    house.keeper.start()
    stack.callback(house.keeper.stop)


def watched_paths(settings: Settings) -> tuple[Any, ...]:
    """Return every path whose edit is a reload."""
    rego = [path for each in settings.providers for path in each.rego.files]
    bundles = [path for each in settings.bundles for path in each.files]
    return (*settings.policies.paths, *rego, *bundles)


def static_workload(settings: WorkloadSettings) -> Workload | None:
    """Return the configured workload, or None when nothing of it is set."""
    if not (settings.namespace or settings.service_account or settings.labels):
        return None
    return Workload(
        namespace=settings.namespace,
        service_account=settings.service_account,
        labels=settings.labels,
        # What is not configured Envoy may tell.
        has_told_labels=bool(settings.labels),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Serving:
    """What answers checks and tells of itself, and what ends it."""

    authorizer: Authorizer
    ready: Readiness
    metrics: Metrics
    stop: threading.Event


def _run(settings: Settings, serving: _Serving, seat: Seat, open_listener: OpenListener) -> None:
    """Listen until `stop`; health turns red before the listener closes."""
    listen, metrics = settings.listen, serving.metrics
    tls = open_listener_tls(listen.tls, metrics)
    is_listening = threading.Event()
    ready = _once(is_listening, with_listener_tls(serving.ready, tls))
    host, _, port = listen.http.rpartition(":")
    try:
        http = HttpEndpoints(
            host.strip("[]"), int(port), ready=ready, metrics=metrics.text, on_defect=_tell
        )
    except OSError as exc:
        raise cannot_listen(f"listen.http: {listen.http}", exc) from exc
    try:
        listener = open_listener(
            ListeningParts(
                listen=listen,
                check=serving.authorizer.check,
                metadata_key=settings.identity.waypoint.peer_metadata_key,
                tls=tls,
                overload=watch_overload(_late_milliseconds(listen), metrics),
                shares_port=seat.shares_port,
            )
        )
        try:
            is_listening.set()
            _log.info(
                "serving",
                grpc=_bound(listen.grpc, listener.port),
                http=_bound(listen.http, http.port),
            )
            seat.listening(http.port)
            serving.stop.wait()
            _log.info("draining", seconds=listen.drain_seconds)
        finally:
            listener.stop(listen.drain_seconds)
    finally:
        http.close()


def _tell(defect: Exception) -> None:
    _log.error("http_request_failed", exc_info=defect)


def _bound(address: str, port: int) -> str:
    """Return the address with the port that was bound, where one was."""
    return f"{address.rpartition(':')[0]}:{port}" if port else address


def _late_milliseconds(listen: ListenSettings) -> int:
    """Return how long a check may wait for a thread before it is refused."""
    # WHY longer: there Envoy sees to it that no more are open than can be answered in time. To
    # refuse what it let in costs most of an answer, and on a slow day would leave none answered.
    return listen.overload_milliseconds * (_LATE_INSIDE_ENVOY if listen.server == "envoy" else 1)


def _once(is_listening: threading.Event, ready: Readiness) -> Readiness:
    """Return a readiness that is red before checks are answered."""

    def now() -> tuple[bool, Mapping[str, Any]]:
        is_ready, body = ready()
        is_ready = is_ready and is_listening.is_set()
        return is_ready, {**body, "ready": is_ready}

    return now


def _stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` on SIGTERM and SIGINT; only the main thread may listen to signals."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
