"""`meshwarden ca`: the command lines of the companion certificate authority."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click
import structlog

from authz.commands.ca_agent import agent_command
from authz.commands.ca_records import RECORD_COMMAND_LINES
from authz.commands.ca_slots import (
    bundle_group,
    ca_config_option,
    init_command,
    load_ca_settings,
    log_settings,
    rotate_group,
    status_command,
)
from authz.commands.failing import clear_errors
from authz.errors import ListenError
from authz.http_endpoints import HttpEndpoints
from authz.logging_setup import logging_aside, set_up_logging
from ca.interpreter import tune_interpreter
from ca.process_guard import guard_process
from ca.running import RunningCa, Service
from ca.server import serve
from ca.signing_worker import work
from ca.status import status_of
from ca.workers import WorkerPlan, signing_workers

_log = structlog.get_logger(__name__)


@click.group("ca")
@click.pass_context
def ca_group(context: click.Context) -> None:
    """The companion certificate authority."""
    # What a command is asked for may be a certificate, and what happens on the way is none.
    context.with_resource(logging_aside())


for _command in (
    init_command,
    rotate_group,
    bundle_group,
    status_command,
    agent_command,
    *RECORD_COMMAND_LINES,
):
    ca_group.add_command(_command)


@ca_group.command("serve")
@ca_config_option()
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes that sign for `istioListen`, on one port; else `signing.workers` says.",
)
@click.option("--leash", type=int, default=-1, hidden=True)
def serve_command(config: Path, workers: int | None, leash: int) -> None:
    """Serve certificates over SDS to every configured workload until SIGTERM."""
    with clear_errors():
        settings = load_ca_settings(config)
        set_up_logging(log_settings(settings))
        guard_process()
        tune_interpreter()
        if leash >= 0:
            asyncio.run(work(settings, socket.socket(fileno=leash)))
            return
        services: list[Service] = [_http_endpoints]
        signing = settings.signing
        count = workers or (signing.workers if signing is not None else 1)
        if signing is not None and signing.istio_listen is not None and count > 1:
            plan = WorkerPlan(
                count=count, listen=signing.istio_listen, start=partial(_start_worker, config)
            )
            services.append(signing_workers(plan))
            settings = settings.without_istio()
        asyncio.run(serve(settings, services=services))


def _start_worker(config: Path, pair: socket.socket) -> subprocess.Popen[bytes]:
    """Start a signing worker that has one end of a socket pair."""
    command = [sys.executable, "-P", "-m", "authz", "ca", "serve", "-c", str(config)]
    leash = str(pair.fileno())
    return subprocess.Popen([*command, "--leash", leash], pass_fds=[pair.fileno()])


def _tell(defect: Exception) -> None:
    _log.error("http_request_failed", exc_info=defect)


@asynccontextmanager
async def _http_endpoints(ca: RunningCa) -> AsyncIterator[None]:
    """Answer kubelets and Prometheus while the context is entered, where that is configured."""
    if ca.settings.http_listen is None:
        yield
        return
    host, _, port = ca.settings.http_listen.rpartition(":")

    def ready() -> tuple[bool, Mapping[str, Any]]:
        status = status_of(ca)
        return status["state"] != "failing", status

    try:
        http = HttpEndpoints(
            host.strip("[]"), int(port), ready=ready, metrics=ca.metrics.exposition, on_defect=_tell
        )
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ListenError(
            f"`httpListen: {ca.settings.http_listen}` cannot be listened on: {why}"
        ) from exc
    try:
        yield
    finally:
        await asyncio.to_thread(http.close)
