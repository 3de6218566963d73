"""`policy validate`: what Istio's admission would say, and where."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from authz.commands.failing import clear_errors
from authz.commands.options import mesh_option, read_mesh
from authz.commands.policy_texts import read_texts
from authz.render_findings import finding_row, print_findings, print_tally
from policies.diagnostic import Severity
from policies.validate import validate_texts

EXIT_ACCEPTED = 0
EXIT_REFUSED = 1


@click.command("validate", short_help="Say what admission would, and where.")
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, allow_dash=True),
    metavar="PATH...",
)
@mesh_option("Mesh settings the policies are for: our own, or Istio's MeshConfig.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(("pretty", "json")),
    default="pretty",
    show_default=True,
    help="For people, or for programs.",
)
def validate_command(paths: tuple[Path, ...], mesh_file: Path | None, format_: str) -> None:
    """Say what is wrong with policies: what Istio's admission refuses, and what it warns of.

    PATH are files and folders of policies; `-` is standard input. An error refuses the
    resource (and here the whole load); a warning marks what is accepted and does not do
    what it seems to. JSON is one list of objects with `file`, `line`, `column`, `path`
    (the field), `severity`, `code`, `message`, `help` and `resource`
    (`kind/namespace/name`).

    \b
    Examples:
      policy validate examples/policies
      policy validate policies/ --mesh istio-configmap.yaml --format json
      kubectl get authorizationpolicies -A -o yaml | policy validate -

    \b
    Exit codes: 0 no error; 1 an error; 2 the command line or the mesh settings are wrong.
    """
    with clear_errors():
        mesh = read_mesh(mesh_file)
    texts, problems = read_texts(paths)
    validation = validate_texts(texts, mesh)
    findings = sorted((*problems, *validation.findings), key=lambda found: found.location)
    if format_ == "json":
        click.echo(json.dumps([finding_row(found) for found in findings], indent=2))
    else:
        console = Console(soft_wrap=True)
        quoted = {found.location.file for found in findings if found.location.line}
        lines = {file: text.splitlines() for file, text in texts if file in quoted}
        print_findings(findings, lines, console)
        print_tally(findings, len(texts), validation.resources, console)
    refused = any(found.severity is Severity.ERROR for found in findings)
    raise SystemExit(EXIT_REFUSED if refused else EXIT_ACCEPTED)
