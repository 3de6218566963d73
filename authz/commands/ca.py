"""`meshwarden ca serve`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from authz.commands.failing import clear_errors
from authz.config_file import load_model
from authz.logging_setup import set_up_logging
from authz.settings import LogSettings
from ca.server import serve
from ca.settings import CaSettings


@click.group("ca")
def ca_group() -> None:
    """The companion certificate authority."""


@ca_group.command("serve")
@click.option(
    "-c",
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The CA's configuration file.",
)
def serve_command(config: Path) -> None:
    """Serve certificates over SDS to every configured workload until SIGTERM."""
    with clear_errors():
        settings = load_model(config, CaSettings)
        set_up_logging(LogSettings())
        asyncio.run(serve(settings.resolved(config.resolve().parent)))
