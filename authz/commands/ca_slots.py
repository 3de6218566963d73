"""`meshwarden ca init`, `rotate`, `bundle` and `status`: the authorities and their slots."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from authz.commands.failing import clear_errors
from authz.config_file import load_model
from authz.logging_setup import set_up_logging
from authz.settings import LogSettings
from ca.clock import utc_now
from ca.commands import carry_out
from ca.opening import make_state
from ca.settings import CaSettings
from ca.status import describe_status

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
_EXIT_TROUBLED = 1


def ca_config_option() -> Callable[[_Decorated], _Decorated]:
    """Return the option `-c/--config FILE`; its argument is `config`."""
    return click.option(
        "-c",
        "--config",
        "config",
        type=click.Path(path_type=Path, dir_okay=False),
        required=True,
        help="The CA's configuration file.",
    )


def load_ca_settings(config: Path) -> CaSettings:
    """Return the settings of a CA's configuration file, its paths absolute.

    Raises:
        LoadError: the file is not right.
    """
    return load_model(config, CaSettings).resolved(config.resolve().parent)


def log_settings(settings: CaSettings) -> LogSettings:
    """Return how a CA's processes log; the words are the authorizer's own."""
    return LogSettings(level=settings.log.level, format=settings.log.format)


def settings_of_command(config: Path) -> CaSettings:
    """Return the settings for a command that ends, and log as they say until it does.

    Raises:
        LoadError: the file is not right.
    """
    settings = load_ca_settings(config)
    set_up_logging(log_settings(settings), is_for_good=False)
    return settings


@click.command("init")
@ca_config_option()
def init_command(config: Path) -> None:
    """Make the first authority, or plug in the configured one, without serving it."""
    with clear_errors():
        settings = settings_of_command(config)
        keeper = make_state(settings, utc_now)
        ends = keeper.current().root.not_valid_after_utc.isoformat()
        click.echo(f"made the authority of {settings.trust_domain}, its root ends {ends}")


@click.group("rotate")
def rotate_group() -> None:
    """Replace the authority in three steps: prepare, activate, retire."""


@rotate_group.command("prepare")
@ca_config_option()
@click.option(
    "--plugged",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Take the existing CA in this folder instead of making a root.",
)
def prepare_command(config: Path, plugged: Path | None) -> None:
    """Publish a new root, which does not sign yet."""
    folder = None if plugged is None else str(plugged.resolve())
    _rotate(config, {"step": "prepare", "plugged": folder}, "is prepared")


@rotate_group.command("activate")
@ca_config_option()
@click.option("--force", is_flag=True, help="Do not wait until everybody knows its root.")
def activate_command(config: Path, force: bool) -> None:
    """Let the prepared authority sign; the one before it retires."""
    _rotate(config, {"step": "activate", "force": force}, "signs now")


@rotate_group.command("retire")
@ca_config_option()
@click.option("--force", is_flag=True, help="Do not wait until its last leaf is over.")
def retire_command(config: Path, force: bool) -> None:
    """Take the retired authority's root out of the trust bundle."""
    _rotate(config, {"step": "retire", "force": force}, "is trusted no more")


@click.group("bundle")
def bundle_group() -> None:
    """The roots that workloads of this trust domain trust."""


@bundle_group.command("show")
@ca_config_option()
def bundle_show_command(config: Path) -> None:
    """List the roots: authority, slot, end, digest."""
    with clear_errors():
        status = _ask(config, {"do": "status"})
        for authority in status["authorities"]:
            root = authority["root"]
            click.echo(
                f"{authority['number']}  {authority['phase']:<9} {root['expiresAt']}  "
                f"{root['key']:<9} sha256 {root['sha256']}"
            )


@bundle_group.command("export")
@ca_config_option()
@click.option(
    "--format",
    "form",
    type=click.Choice(["pem", "spiffe"]),
    default="pem",
    show_default=True,
    help="PEM certificates, or the SPIFFE bundle document (a JWK set).",
)
def bundle_export_command(config: Path, form: str) -> None:
    """Print the trust bundle."""
    with clear_errors():
        click.echo(_ask(config, {"do": "bundle"})[form].rstrip("\n"))


@click.command("status")
@ca_config_option()
@click.option("--json", "as_json", is_flag=True, help="Print the whole status as JSON.")
def status_command(config: Path, as_json: bool) -> None:
    """Say what expires when, who listens and what is wrong; exit code 1 when something is."""
    with clear_errors():
        status = _ask(config, {"do": "status"})
        click.echo(json.dumps(status, indent=2) if as_json else describe_status(status))
        if status["state"] != "ok":
            raise SystemExit(_EXIT_TROUBLED)


def _rotate(config: Path, request: Mapping[str, Any], done: str) -> None:
    """Take one step of a rotation and say so."""
    with clear_errors():
        answer = _ask(config, {"do": "rotate"} | dict(request))
        click.echo(f"authority {answer['number']} {done}")


def _ask(config: Path, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the answer of the CA that a configuration file describes."""
    return carry_out(settings_of_command(config), request, utc_now)
