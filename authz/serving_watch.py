"""What a server tells of itself: its metrics, its readiness, its reloads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from audit.open_log import OpenLog
from audit.record import AuditEvent, EventName
from audit.writer import AuditWriter
from authz.audit_parts import sink_states
from authz.bundle_parts import shown_bundle
from authz.metrics import Metrics
from authz.overload import Overload
from authz.policy_bundle_parts import PolicyBundles, shown_policy_bundle
from authz.reload import Loaded, StateKeeper
from authz.serving_state import ServingState
from identity.bundle_watch import BundleWatch
from identity.jwks_cache import JwksCache, KeySourceStatus
from opa_bridge.provider import RegoProvider
from policies.diagnostic import Diagnostic

_log = structlog.get_logger(__name__)


def watch_overload(milliseconds: int, metrics: Metrics) -> Overload:
    """Return what refuses checks that waited longer, counted in the metrics."""
    overload = Overload(milliseconds / 1000)
    metrics.watch(
        "meshwarden_checks_refused",
        "Checks refused unread because more came than can be answered; none is on record.",
        lambda: overload.refused + overload.refused_before(),
    )
    return overload


class LateAudit:
    """The writer, which opens only after the first state was built."""

    writer: AuditWriter | None = None


def note_state(metrics: Metrics, state: ServingState) -> None:
    """Count the first load and log what is odd about it."""
    metrics.reloads.labels("loaded").inc()
    metrics.policies.set(len(state.snapshot.policies))
    metrics.loaded_at.set(time.time())
    for warning in state.warnings:
        _log.warning("policy_warning", finding=str(warning))


def note_reload(
    metrics: Metrics,
    audit: LateAudit,
    loaded: Loaded | None,
    problems: Sequence[Diagnostic],
) -> None:
    """Put a reload on the record and count it: who decided what is half of the evidence.

    Raises:
        AuditUnavailable: the record takes nothing now; the caller tells it again.
    """
    if loaded is None:
        details: dict[str, Any] = {"result": "refused", "problems": [str(p) for p in problems]}
    else:
        details = {"result": "loaded", "revision": loaded.revision}
    if audit.writer is not None:
        audit.writer.offer(AuditEvent(event=EventName.RELOAD, at=time.time(), details=details))
    metrics.reloads.labels(details["result"]).inc()
    if loaded is not None:
        metrics.policies.set(loaded.policies)
        metrics.loaded_at.set(time.time())


def watch_keys(metrics: Metrics, keys: JwksCache) -> None:
    """Export how the keys of issuers stand."""
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


def shown_rego(state: ServingState) -> list[dict[str, str]]:
    """Return where each Rego provider's entrypoint is evaluated, and why not in process."""
    shown = []
    for name, provider in sorted(state.providers.items()):
        if isinstance(provider, RegoProvider):
            way = provider.engine.stats()
            told = {"provider": name, "revision": provider.revision}
            shown.append(told | {"where": way.where, "why": way.why})
    return shown


def readiness(
    keeper: StateKeeper,
    log: OpenLog,
    keys: JwksCache,
    bundles: BundleWatch,
    stop: threading.Event,
    policy_bundles: PolicyBundles,
) -> Callable[[], tuple[bool, Mapping[str, Any]]]:
    """Return what `/readyz` asks: whether the server is ready, and how each part stands."""

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
            "rego": shown_rego(keeper.current()),
        }

    return ready
