"""The options that name what a command line decides by: policies, configuration, mesh, Rego."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from authz.commands.options import Decorated, mesh_option

_PATHS = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


def world_options(command: Decorated) -> Decorated:
    """Give a command `--policies`, `--config`, `--mesh` and the options of Rego.

    Its arguments are `policies`, `config`, `mesh_file`, `rego`, `rego_entrypoint`, `rego_data`.
    """
    for option in reversed(_options()):
        command = option(command)
    return command


def _options() -> tuple[Any, ...]:
    return (
        click.option(
            "--policies", multiple=True, type=_PATHS, metavar="PATH...",
            help="Files and folders of Istio policies.",
        ),
        click.option(
            "-c", "--config", type=_FILE, metavar="FILE",
            help="Answer as the server of this configuration; the other options win over what "
            "it says.",
        ),
        mesh_option(),
        click.option(
            "--rego", multiple=True, metavar="[NAME=]PATH...",
            help="Rego modules that answer for the provider NAME of CUSTOM policies; without "
            "NAME, for every provider that has none of its own.",
        ),
        click.option(
            "--rego-entrypoint", default="", metavar="RULE",
            help="The rule that is asked, as `package/rule`.  [default: envoy/authz/allow; "
            "envoy/authz/result where there is none; else the only `allow`]",
        ),
        click.option(
            "--rego-data", multiple=True, type=_PATHS, metavar="PATH...",
            help="JSON or YAML files merged into Rego's `data`.",
        ),
    )  # fmt: skip
