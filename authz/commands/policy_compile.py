"""`policy compile`: Istio's policies as the Envoy filters of one workload."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml

from authz.commands.failing import EXIT_UNUSABLE, clear_errors
from authz.commands.options import (
    SERVICE_FORM,
    WORKLOAD_FORM,
    mesh_option,
    parse_service,
    parse_workload,
    read_mesh,
)
from policies.diagnostic import Diagnostic
from policies.files import read_policy_files
from policies.load import read_resources
from policies.model import AuthorizationPolicy
from policies.rbac import UnsupportedModeError, compile_filters
from policies.request import Service, Workload


class _PlainDumper(yaml.SafeDumper):
    """Writes every filter out in full: Envoy and people read no YAML aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Envoy reads these as booleans, and PyYAML would write them plain.
_PlainDumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("[yYnN]$"), list("yYnN"))


@click.command("compile", short_help="Print the Envoy filters of a workload.")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH..."
)
@click.option(
    "--to",
    type=click.Choice(("envoy-rbac",)),
    default="envoy-rbac",
    show_default=True,
    expose_value=False,
    help="What to compile to.",
)
@click.option(
    "--workload",
    callback=lambda context, option, value: parse_workload(value),
    required=True,
    metavar=WORKLOAD_FORM,
    help="The workload whose proxy is meant: its namespace and its labels.",
)
@click.option(
    "--service",
    callback=lambda context, option, value: parse_service(value) if value else None,
    metavar=SERVICE_FORM,
    help="The service whose filter chain is meant, of a waypoint (`mode: waypoint` of the mesh).",
)
@mesh_option()
@click.option("--tcp", is_flag=True, help="The network filters of a TCP chain, not the HTTP ones.")
@click.option(
    "--multiple-providers",
    is_flag=True,
    help="Ask every CUSTOM provider, as istiod with PILOT_ENABLE_MULTIPLE_CUSTOM_AUTHZ_PROVIDERS; "
    "without it, and without `multipleProviders` among the mesh settings, policies of more than "
    "one provider deny what they match.",
)
@click.option(
    "-o", "--output", type=click.Choice(("yaml", "json")), default="yaml", show_default=True,
    help="The form of what is printed.",
)  # fmt: skip
def compile_command(  # noqa: PLR0913, PLR0917 - the options of one command line
    paths: tuple[Path, ...],
    workload: Workload,
    service: Service | None,
    mesh_file: Path | None,
    tcp: bool,
    multiple_providers: bool,
    output: str,
) -> None:
    """Print the filters that Istio's control plane would send to a workload's Envoy.

    PATH are files and folders of policies. The filters come in the order in which
    Envoy runs them, one YAML document (or one line of JSON) a filter. A CUSTOM policy
    whose provider is unknown or wrong becomes a denial of what it matches.

    \b
    Examples:
      policy compile examples/policies --workload shop/app=orders
      policy compile policies/ --mesh istio-configmap.yaml --workload shop/app=db --tcp -o json

    \b
    Exit codes: 0 done; 2 the policies, the mesh settings or the command line are wrong.
    """
    with clear_errors():
        resources = read_resources(read_policy_files(paths)).resources
        policies = [each for each in resources if isinstance(each, AuthorizationPolicy)]
        unusable: list[Diagnostic] = []
        mesh = read_mesh(mesh_file, unusable=unusable)
        for found in unusable:
            click.echo(str(found), err=True)
        target = replace(workload, service=service)
        try:
            filters = compile_filters(
                policies,
                target,
                mesh,
                tcp=tcp,
                many_providers=multiple_providers or mesh.multiple_providers is True,
            )
        except UnsupportedModeError as exc:
            click.echo(f"error: {exc}", err=True)
            raise SystemExit(EXIT_UNUSABLE) from exc
    if not filters:
        click.echo("no policy is attached: Envoy gets no filter and allows", err=True)
    click.echo(render(filters, output), nl=False)


def render(filters: list[dict[str, Any]], output: str) -> str:
    """Return filters as text: YAML documents, or JSON with one filter a line."""
    if output == "json":
        return "".join(json.dumps(each) + "\n" for each in filters)
    return yaml.dump_all(filters, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
