"""`meshwarden ca agent`: a workload's certificate as files, from any Workload API."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from pathlib import Path

import click

from authz.commands.failing import clear_errors
from authz.logging_setup import set_up_logging
from authz.settings import LogSettings
from ca.agent import AgentPlan, run_agent
from ca.clock import utc_now
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_UNIX = "unix:"


@click.command("agent")
@click.option(
    "--socket",
    "endpoint",
    envvar="SPIFFE_ENDPOINT_SOCKET",
    show_envvar=True,
    required=True,
    help="The Workload API's socket, `unix:///path` or a path.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help=(
        "Where svid.pem, svid_key.pem, svid_bundle.pem, trust_bundles.json and, for Envoy, "
        "envoy_svid.json and envoy_roots.json are kept."
    ),
)
@click.option("--spiffe-id", help="Which ID, where there are several; the first without it.")
@click.option(
    "--once",
    is_flag=True,
    help="Write the files once and end; wait for what they need as long as it takes.",
)
def agent_command(endpoint: str, folder: Path, spiffe_id: str | None, once: bool) -> None:
    """Keep a certificate, its key and the trust bundles as files that change together."""
    with clear_errors():
        plan = AgentPlan(
            socket=_socket_path(endpoint),
            folder=folder,
            clock=utc_now,
            random=random.SystemRandom().random,
            spiffe_id=_parsed_id(spiffe_id),
            is_once=once,
        )
        set_up_logging(LogSettings())
        asyncio.run(_run(plan))


async def _run(plan: AgentPlan) -> None:
    """Run until the files are written once, or until SIGTERM or SIGINT."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    await run_agent(plan, stop)


def _socket_path(endpoint: str) -> Path:
    """Return the path of `unix:///path`, `unix:/path` or a bare path.

    Spec: SPIFFE Workload Endpoint §4: no authority, an absolute path.
    """
    path = endpoint
    if endpoint.startswith(_UNIX):
        path = endpoint.removeprefix(_UNIX)
        path = path.removeprefix("//")
        if not path.startswith("/"):
            raise click.BadParameter(f"`{endpoint}` does not name an absolute path")
    elif "://" in endpoint:
        raise click.BadParameter(f"`{endpoint}` is not a Unix socket")
    return Path(path)


def _parsed_id(text: str | None) -> SpiffeId | None:
    """Return the ID that was asked for."""
    try:
        return None if text is None else SpiffeId.parse(text)
    except SpiffeIdError as exc:
        raise click.BadParameter(str(exc)) from exc
