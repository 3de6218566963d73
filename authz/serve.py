"""`meshwarden serve`: the parts joined, kept running, and drained on a signal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog

from audit.open_log import OpenLog
from audit.record import AuditEvent, EventName
from audit.writer import AuditWriter
from authz.audit_parts import open_audit, sink_states
from authz.build import build_state
from authz.bundle_parts import build_bundle_watch, shown_bundle, watch_bundles
from authz.candidate_parts import Candidate
from authz.errors import ListenError
from authz.explain.trace import tracer
from authz.grpc_server import GrpcServer
from authz.http_endpoints import HttpEndpoints
from authz.listener_tls_parts import open_listener_tls, with_listener_tls
from authz.metrics import Metrics
from authz.overload import Overload
from authz.pipeline import Authorizer
from authz.policy_bundle_parts import (
    PolicyBundles,
    TakeBundle,
    shown_policy_bundle,
    watch_policy_bundles,
)
from authz.policy_reading import PolicyReading
from authz.provider_memory import ProviderMemory
from authz.provider_metrics import ProviderMetrics
from authz.reload import StateKeeper
from authz.serving_state import ServingState
from authz.settings import Settings, WorkloadSettings
from authz.token_parts import build_token_parts
from authz.walk import Surroundings
from identity.bundle_watch import BundleWatch
from identity.deny_list import DenyListWatch, FindDenied, nobody_denied
from identity.jwks_cache import JwksCache, KeySourceStatus
from policies.diagnostic import Diagnostic
from policies.request import Workload

_log = structlog.get_logger(__name__)


def serve(settings: Settings, *, stop: threading.Event | None = None) -> None:
    """Serve until SIGTERM, SIGINT, or `stop` is set; then drain and return.

    Raises:
        LoadError: policies or Rego cannot be loaded; nothing was started.
        AuditError: the audit folder cannot be used.
        ListenError: an address cannot be bound.
        IdentityError: a secret or a trust bundle cannot be read.
    """
    stop = stop or threading.Event()
    _stop_on_signals(stop)
    with ExitStack() as stack:
        tokens = build_token_parts(settings.identity)
        keys = tokens.keys
        stack.callback(tokens.close)
        bundles = build_bundle_watch(settings.identity)
        stack.callback(bundles.stop)
        metrics = Metrics()
        audit = _LateAudit()
        policy_bundles = PolicyBundles(settings.bundles)
        stack.callback(policy_bundles.stop)
        memory = ProviderMemory()
        reading = PolicyReading()

        def build(take: TakeBundle) -> ServingState:
            return build_state(
                settings, keys, take=take, memory=memory, snapshot_of_texts=reading.snapshot
            )

        keeper = StateKeeper(
            policy_bundles.begin(build),
            watched_paths(settings),
            interval_seconds=settings.policies.reload_seconds,
            on_reload=lambda state, problems: _note_reload(metrics, audit, state, problems),
            hand_over=reading.hand_over,
            let_go=reading.let_go,
        )
        state = keeper.current()
        _note_state(metrics, state)
        provider_metrics = ProviderMetrics(metrics.registry, keeper.current)
        log = open_audit(settings.audit, metrics, revision=state.revision)
        stack.callback(log.close)
        audit.writer = log.writer
        _watch_keys(metrics, keys)
        watch_bundles(metrics, bundles)
        watch_policy_bundles(metrics.registry, policy_bundles)
        around = Surroundings(
            keys=keys,
            on_unknown_key=keys.hasten,
            verify_token=tokens.verify,
            static_workload=static_workload(settings.workload),
            headers=settings.identity_headers,
            peer_rules=settings.identity.to_peer_rules(_watch_deny_list(settings, stack)),
            bundles=bundles.current,
            observe=provider_metrics.observe,
        )
        candidate: Candidate | None = None
        if settings.dryrun.candidate is not None:
            candidate = Candidate(settings, around, metrics, take=policy_bundles.take)
            stack.callback(candidate.stop)
            candidate.start()
            around = replace(around, candidate=candidate.shadow.verdict)
        authorizer = Authorizer(
            state=keeper.current,
            around=around,
            recorder=log.writer,
            metrics=metrics,
            trace=tracer(settings.audit),
        )
        bundles.start()

        def adopt(take: TakeBundle, keep: Callable[[], None]) -> Sequence[Diagnostic]:
            problems = keeper.adopt(lambda: build(take), keep)
            if candidate is not None and not problems:
                candidate.refresh()
            return problems

        policy_bundles.start(adopt)
        reading.begin_serving()
        keeper.start()
        stack.callback(keeper.stop)
        ready = _readiness(keeper, log, keys, bundles, stop, policy_bundles)
        _run(settings, stop, authorizer, ready, metrics)
    _log.info("stopped")


def _watch_deny_list(settings: Settings, stack: ExitStack) -> FindDenied:
    """Return what tells the deny list that counts now, kept fresh until `stack` closes.

    Raises:
        DenyListError: it is configured and cannot be read: nobody would be denied without it.
    """
    path = settings.identity.deny_list
    if path is None:
        return nobody_denied
    watch = DenyListWatch(path)
    stack.callback(watch.stop)
    watch.start()
    return watch.current


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
    )


def _run(
    settings: Settings,
    stop: threading.Event,
    authorizer: Authorizer,
    ready: Callable[[], tuple[bool, Mapping[str, Any]]],
    metrics: Metrics,
) -> None:
    """Listen until `stop`; health turns red before the listener closes."""
    listen = settings.listen
    tls = open_listener_tls(listen.tls, metrics)
    ready = with_listener_tls(ready, tls)
    host, _, port = listen.http.rpartition(":")
    try:
        http = HttpEndpoints(host.strip("[]"), int(port), ready=ready, metrics=metrics.text)
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ListenError(f"`listen.http: {listen.http}` cannot be listened on: {why}") from exc
    try:
        grpc_server = GrpcServer(
            listen.grpc,
            listen.threads,
            authorizer.check,
            metadata_key=settings.identity.waypoint.peer_metadata_key,
            timed=True,
            tls=tls,
            overload=_watch_overload(listen.overload_milliseconds, metrics),
        )
        try:
            _log.info("serving", grpc=listen.grpc, http=listen.http)
            stop.wait()
            _log.info("draining", seconds=listen.drain_seconds)
        finally:
            grpc_server.stop(listen.drain_seconds)
    finally:
        http.close()


def _watch_overload(milliseconds: int, metrics: Metrics) -> Overload:
    """Return what refuses checks that waited longer, counted in the metrics."""
    overload = Overload(milliseconds / 1000)
    metrics.watch(
        "meshwarden_checks_refused",
        "Checks refused unread because more came than can be answered; none is on record.",
        lambda: overload.refused,
    )
    return overload


class _LateAudit:
    """The writer, which opens only after the first state was built."""

    writer: AuditWriter | None = None


def _note_state(metrics: Metrics, state: ServingState) -> None:
    metrics.reloads.labels("loaded").inc()
    metrics.policies.set(len(state.snapshot.policies))
    metrics.loaded_at.set(time.time())
    for warning in state.warnings:
        _log.warning("policy_warning", finding=str(warning))


def _note_reload(
    metrics: Metrics,
    audit: _LateAudit,
    state: ServingState | None,
    problems: Sequence[Diagnostic],
) -> None:
    """Put a reload on the record and count it: who decided what is half of the evidence.

    Raises:
        AuditUnavailable: the record takes nothing now; the caller tells it again.
    """
    if state is None:
        details: dict[str, Any] = {"result": "refused", "problems": [str(p) for p in problems]}
    else:
        details = {"result": "loaded", "revision": state.revision}
    if audit.writer is not None:
        audit.writer.offer(AuditEvent(event=EventName.RELOAD, at=time.time(), details=details))
    metrics.reloads.labels(details["result"]).inc()
    if state is not None:
        metrics.policies.set(len(state.snapshot.policies))
        metrics.loaded_at.set(time.time())


def _watch_keys(metrics: Metrics, keys: JwksCache) -> None:
    metrics.watch(
        "meshwarden_key_sources_without_keys",
        "Issuers whose keys could not be had, or only too long ago: their tokens are refused.",
        lambda: sum(not each.is_ready for each in keys.status()),
    )
    metrics.watch(
        "meshwarden_key_sources_failing",
        "Issuers whose last fetch of keys failed; the last good keys count.",
        lambda: sum(bool(each.last_error) for each in keys.status()),
    )


def _key_status(status: KeySourceStatus) -> Mapping[str, Any]:
    """Return how one issuer's keys stand, with why the last fetch failed."""
    return {
        "source": status.source,
        "ready": status.is_ready,
        "keys": status.key_count,
        "age_seconds": status.age_seconds,
        "fault": status.last_error,
        "notes": list(status.notes),
    }


def _readiness(
    keeper: StateKeeper,
    log: OpenLog,
    keys: JwksCache,
    bundles: BundleWatch,
    stop: threading.Event,
    policy_bundles: PolicyBundles,
) -> Callable[[], tuple[bool, Mapping[str, Any]]]:
    def ready() -> tuple[bool, Mapping[str, Any]]:
        status = keeper.status()
        audit_fault = log.writer.health()
        is_ready = not log.writer.is_denying and not stop.is_set()
        return is_ready, {
            "ready": is_ready,
            "revision": status.revision,
            "loaded_at": datetime.fromtimestamp(status.loaded_at, UTC).isoformat(),
            "policies": len(keeper.current().snapshot.policies),
            "refused": [str(problem) for problem in status.problems],
            "audit": audit_fault or "ok",
            "audit_sinks": sink_states(log),
            "draining": stop.is_set(),
            "keys": [_key_status(each) for each in keys.status()],
            "trust_bundles": [shown_bundle(each) for each in bundles.status()],
            "bundles": [shown_policy_bundle(each) for each in policy_bundles.status()],
        }

    return ready


def _stop_on_signals(stop: threading.Event) -> None:
    """Set `stop` on SIGTERM and SIGINT; only the main thread may listen to signals."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
