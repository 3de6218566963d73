"""From `identity.denyList` to the watch that keeps it, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import structlog

from authz.identity_settings import IdentitySettings
from authz.listener_tls_parts import Readiness
from authz.metrics import Metrics
from identity.deny_list import DenyListWatch, FindDenied, nobody_denied

_log = structlog.get_logger(__name__)


def open_deny_list(
    settings: IdentitySettings, metrics: Metrics, stack: ExitStack
) -> DenyListWatch | None:
    """Return the watch over the configured deny list until `stack` closes; None without one.

    Raises:
        DenyListError: it cannot be read: nobody would be denied without it.
    """
    watch = None if settings.deny_list is None else DenyListWatch(settings.deny_list, tell=_told)
    metrics.watch(
        "meshwarden_deny_list_failing",
        "Whether the deny list could not be read last time (1); the last good one counts.",
        lambda: float(bool(watch and watch.error)),
    )
    if watch is not None:
        stack.callback(watch.stop)
        watch.start()
    return watch


def find_denied(watch: DenyListWatch | None) -> FindDenied:
    """Return what tells the list that counts now."""
    return nobody_denied if watch is None else watch.current


def with_deny_list(ready: Readiness, watch: DenyListWatch | None) -> Readiness:
    """Return the readiness with how the deny list stands, where there is one."""
    if watch is None:
        return ready

    def shown() -> tuple[bool, Mapping[str, Any]]:
        is_ready, parts = ready()
        denied = watch.current()
        told = {"revision": denied.revision, "denials": len(denied.until), "fault": watch.error}
        return is_ready, {**parts, "deny_list": told}

    return shown


def _told(watch: DenyListWatch) -> None:
    """Log that other denials count, or why newer ones do not."""
    if watch.error:
        _log.warning("deny_list_failed", error=watch.error)
        return
    denied = watch.current()
    _log.info("deny_list", revision=denied.revision, denials=len(denied.until))
