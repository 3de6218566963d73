"""The record of an authorizer: opened from the settings, told in logs and metrics."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import structlog
from prometheus_client import Gauge

from audit.errors import AuditLockedError
from audit.open_log import OpenLog
from audit.settings import AuditSettings
from audit.sinks.running import SinkRunner
from audit.writer import AuditWriter
from authz.metrics import Metrics

_log = structlog.get_logger(__name__)
_FREE_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1


def open_audit(
    settings: AuditSettings, metrics: Metrics, *, revision: str, worker: str = ""
) -> OpenLog:
    """Open the record, say what fails in the log, and export its counters.

    `worker` names one of several workers: each has a log of its own.

    Raises:
        AuditError: the folder or the key for checkpoints cannot be used.
    """
    host = socket.gethostname()
    own = settings.for_worker(worker, node=host) if worker else settings

    def open_now() -> OpenLog:
        return OpenLog(
            own,
            node=host,
            start_details={"revision": revision},
            on_fault=lambda name, why: _log.warning("audit_fault", part=name, why=why),
            instance=settings,
        )

    log = _once_free(open_now) if worker else open_now()
    _watch_writer(metrics, log.writer)
    _watch_files(metrics, log)
    _watch_sinks(metrics, log)
    return log


def _once_free(open_now: Callable[[], OpenLog]) -> OpenLog:
    """Open a worker's log; another worker may look after it for a moment while it rests."""
    end = time.monotonic() + _FREE_SECONDS
    while True:
        try:
            return open_now()
        except AuditLockedError:
            if time.monotonic() >= end:
                raise
            threading.Event().wait(_LOOK_SECONDS)


def _watch_writer(metrics: Metrics, writer: AuditWriter) -> None:
    metrics.watch(
        "meshwarden_audit_written", "Lines written to the record.", lambda: writer.written
    )
    metrics.watch(
        "meshwarden_audit_waiting", "Records accepted and not yet written.", lambda: writer.waiting
    )
    metrics.watch(
        "meshwarden_audit_failed", "Failed attempts to write the record.", lambda: writer.failed
    )
    metrics.watch(
        "meshwarden_audit_refused", "Records not accepted; each was a denial.",
        lambda: writer.refused,
    )  # fmt: skip
    for cause in writer.dropped:
        metrics.watch(
            f"meshwarden_audit_dropped_{cause}",
            "Records dropped for this cause (mode `best-effort`).",
            partial(writer.dropped.__getitem__, cause),
        )


def _watch_files(metrics: Metrics, log: OpenLog) -> None:
    metrics.watch(
        "meshwarden_audit_segments_removed", "Segments removed since the start, by retention.",
        lambda: log.keeper.removed,
    )  # fmt: skip
    metrics.watch(
        "meshwarden_audit_housekeeping_failing",
        "1 while closed segments cannot be compressed, or old ones not removed.",
        lambda: log.keeper.fault is not None,
    )


_SINK_METRICS: Mapping[str, tuple[str, Callable[[AuditWriter, SinkRunner], float]]] = {
    "sent": ("Lines of the record that the sink has, since the start.", lambda _, it: it.sent),
    "failed": ("Failed attempts to send to the sink.", lambda _, it: it.failed),
    "behind": (
        "Lines of the record that the sink does not have yet.",
        lambda writer, it: max(0, writer.last_seq - it.saved.seq),
    ),
    "failing": ("1 while the sink takes nothing.", lambda _, it: it.fault is not None),
}


def _watch_sinks(metrics: Metrics, log: OpenLog) -> None:
    if not log.sinks:
        return
    for name, (documentation, read) in _SINK_METRICS.items():
        gauge = Gauge(
            f"meshwarden_audit_sink_{name}", documentation, ("sink",), registry=metrics.registry
        )
        for sink in log.sinks:
            gauge.labels(sink.name).set_function(partial(read, log.writer, sink))


def sink_states(log: OpenLog) -> list[Mapping[str, Any]]:
    """Return how each sink stands, for `/readyz`: none of them makes it red."""
    return [
        {"name": sink.name, "acknowledged_seq": sink.saved.seq, "fault": sink.fault}
        for sink in log.sinks
    ]
