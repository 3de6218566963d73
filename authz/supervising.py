"""The plan of a server of several processes, or of one inside Envoy, made of its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from authz.errors import ListenError
from authz.ports import UNIX
from authz.settings import Settings
from authz.supervisor_plan import EnvoyPlan, SupervisorPlan


def become_supervisor(settings: Settings, config: Path, count: int) -> NoReturn:
    """Make this process the one that looks after so many workers; see `authz.supervisor_plan`.

    Raises:
        ListenError: the address is none to share, or a part of Envoy is missing.
    """
    plan_supervisor(settings, count).become(config)


def plan_supervisor(settings: Settings, count: int) -> SupervisorPlan:
    """Return what a supervisor has to know of so many workers; one is Envoy's, and has no name.

    Raises:
        ListenError: the address is none to share, or a part of Envoy is missing.
    """
    listen, audit = settings.listen, settings.audit
    if count > 1:
        if listen.grpc.startswith(UNIX):
            raise ListenError("workers share a port: `listen.grpc` must be `host:port` for them")
        if listen.grpc.endswith(":0"):
            raise ListenError("workers share a port: `listen.grpc` must name it")
    return SupervisorPlan(
        names=[str(number + 1) for number in range(count)] if count > 1 else [""],
        grpc=listen.grpc,
        http=listen.http,
        drain_seconds=listen.drain_seconds,
        log_level=settings.log.level,
        log_format=settings.log.format,
        columns=str(audit.folder) if audit.columns else None,
        envoy=_envoy(settings, shares_port=count > 1),
    )


def _envoy(settings: Settings, *, shares_port: bool) -> EnvoyPlan | None:
    if settings.listen.server != "envoy":
        return None
    # WHY here: the Envoy message classes take longer to import than all the rest.
    from authz.envoy_launch import plan_envoy  # noqa: PLC0415

    return plan_envoy(settings, shares_port=shares_port)
