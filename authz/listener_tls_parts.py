"""The listener's TLS joined to what operators see: readiness and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from authz.listen_tls_settings import ListenTlsSettings
from authz.listener_tls import ListenerTls
from authz.metrics import Metrics

Readiness = Callable[[], tuple[bool, Mapping[str, Any]]]


def open_listener_tls(settings: ListenTlsSettings | None, metrics: Metrics) -> ListenerTls | None:
    """Return the listener's TLS with its metrics, None where none is configured.

    Raises:
        ListenError: the files cannot be used.
    """
    if settings is None:
        return None
    tls = ListenerTls(settings)

    def end() -> float:
        return tls.status().not_after.timestamp()

    metrics.watch(
        "meshwarden_listener_certificate_end_timestamp_seconds",
        "When the certificate ends that the gRPC listener shows.",
        end,
    )
    metrics.watch(
        "meshwarden_listener_certificate_failing",
        "1 while newer files of the listener's certificate cannot be used.",
        lambda: float(bool(tls.status().fault)),
    )
    return tls


def with_listener_tls(ready: Readiness, tls: ListenerTls | None) -> Readiness:
    """Return a readiness that also tells of the certificate, and is red after its end."""
    if tls is None:
        return ready

    def whole() -> tuple[bool, Mapping[str, Any]]:
        is_ready, body = ready()
        status = tls.status()
        # WHY red: nobody who verifies the certificate can ask any longer.
        is_ready = is_ready and not tls.has_expired
        shown = {"not_after": status.not_after.isoformat(), "fault": status.fault}
        return is_ready, {**body, "ready": is_ready, "listener_tls": shown}

    return whole
