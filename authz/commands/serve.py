"""`meshwarden serve`, `meshwarden envoy-config`, `meshwarden config`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from authz.commands.failing import clear_errors
from authz.config_docs import FORMATS, json_schema, markdown
from authz.config_file import load_settings
from authz.indexing import indexing
from authz.logging_setup import set_up_logging
from authz.serve import serve
from authz.settings import Settings
from authz.token_parts import longest_wait_seconds

_config_option = click.option(
    "-c",
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The configuration file.",
)


@click.command("serve")
@_config_option
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes that answer checks, on one port; else `listen.workers` says.",
)
@click.option("--worker", default="", hidden=True)
@click.option("--leash", type=int, default=-1, hidden=True)
def serve_command(config: Path, workers: int | None, worker: str, leash: int) -> None:
    """Answer Envoy's ext_authz checks until SIGTERM.

    With several workers, SIGHUP replaces them one by one, and nobody waits for it.
    """
    with clear_errors():
        settings = load_settings(config)
        set_up_logging(settings.log)
        count = workers or settings.listen.workers
        if worker:
            _work(settings, worker, leash)
            return
        if count > 1 or settings.listen.server == "envoy":
            # WHY here: one process that answers alone needs nothing of it.
            from authz.supervising import become_supervisor  # noqa: PLC0415

            become_supervisor(settings, config, count)
        with indexing(settings.audit.folder if settings.audit.columns else None):
            serve(settings)


def _work(settings: Settings, worker: str, leash: int) -> None:
    """Serve as one of several workers, whose HTTP endpoints only their server asks."""
    from authz.worker_seat import sit_down  # noqa: PLC0415 - as above

    stop = threading.Event()
    seat = sit_down(worker, leash, settings.listen.grpc, stop)
    listen = settings.listen.model_copy(update={"http": "127.0.0.1:0"})
    serve(settings.model_copy(update={"listen": listen}), stop=stop, seat=seat)


@click.command("envoy-config")
@_config_option
@click.option("--sds-socket", default="", help="Unix socket on which the CA serves the proxy.")
def envoy_config_command(config: Path, sds_socket: str) -> None:
    """Print the Envoy filter, cluster and SDS snippets that fit a configuration."""
    # WHY here: the Envoy message classes take longer to import than all the rest.
    from authz.envoy_config import envoy_snippets, most_at_once  # noqa: PLC0415

    with clear_errors():
        settings: Settings = load_settings(config)
        text = envoy_snippets(
            settings.listen.grpc,
            sds_socket,
            # A check that asks an issuer must not be given up before the issuer's own limit.
            timeout_seconds=max(0.2, 0.1 + longest_wait_seconds(settings.identity)),
            peer_metadata_key=settings.identity.waypoint.peer_metadata_key,
            most=most_at_once(
                settings.listen.workers, settings.listen.overload_milliseconds / 1000
            ),
        )
        click.echo(text, nl=False)


def _load_of_ca(config: Path) -> object:
    # WHY here: `serve` needs nothing of the CA.
    from authz.commands.ca_slots import load_ca_settings  # noqa: PLC0415

    return load_ca_settings(config)


_LOADERS: Final[Mapping[str, Callable[[Path], object]]] = {
    "serve": load_settings,
    "ca": _load_of_ca,
}


@click.group("config")
def config_group() -> None:
    """Check a configuration file, or print its schema."""


@config_group.command("check")
@_config_option
@click.option(
    "--of",
    "kind",
    type=click.Choice(list(_LOADERS)),
    default="serve",
    show_default=True,
    help="The file: of `meshwarden serve`, or of `meshwarden ca serve`.",
)
def check_command(config: Path, kind: str) -> None:
    """Say whether the configuration file is right; nothing is started, no other file is read.

    Exit codes: 0 it is; 2 it is not.
    """
    with clear_errors():
        _LOADERS[kind](config)
        click.echo(f"{config}: ok")


@config_group.command("schema")
@click.option(
    "--of",
    "kind",
    type=click.Choice(list(FORMATS)),
    default="serve",
    show_default=True,
    help="The file: of `meshwarden serve`, of `meshwarden ca serve`, or of `policy test`.",
)
def schema_command(kind: str) -> None:
    """Print the JSON Schema of a configuration or policy test file."""
    click.echo(json.dumps(json_schema(kind), indent=2))


@config_group.command("docs")
def docs_command() -> None:
    """Print docs/configuration.md: every setting with type, default and meaning."""
    click.echo(markdown(), nl=False)
