"""`policy lint`: what is legal in policies and probably not meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console

from authz.commands.failing import clear_errors
from authz.commands.options import mesh_option, read_mesh
from authz.commands.policy_texts import read_texts
from authz.lint_reports import (
    print_lint,
    render_checkstyle,
    render_github,
    render_json,
    render_sarif,
)
from policies.diagnostic import Diagnostic
from policies.lint.baseline import new_findings, parse_baseline, render_baseline
from policies.lint.catalogue import load_catalogue, render_page
from policies.lint.finding import LintFinding, LintSeverity
from policies.lint.run import LintResult, lint_texts

EXIT_CLEAN = 0
EXIT_FOUND = 1

_RENDERERS: dict[str, Callable[[LintResult], str]] = {
    "json": render_json,
    "sarif": render_sarif,
    "github": render_github,
    "checkstyle": render_checkstyle,
}
_file = click.Path(path_type=Path, dir_okay=False)


def _explain(context: click.Context, _: click.Parameter, code: str | None) -> None:
    """Print the page of a code, or the list of all, and end."""
    if code is None or context.resilient_parsing:
        return
    catalogue = load_catalogue()
    if code == "all":
        for entry in catalogue.values():
            click.echo(f"{entry.code}  {entry.severity:<7}  {entry.title}")
    elif code.upper() in catalogue:
        click.echo(render_page(catalogue[code.upper()]), nl=False)
    else:
        raise click.BadParameter(f"no finding has the code `{code}`; `all` lists them")
    context.exit(EXIT_CLEAN)


@click.command("lint", short_help="Find what is legal and not meant.")
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
    type=click.Choice(("pretty", *_RENDERERS)),
    default="pretty",
    show_default=True,
    help="For people, or for programs.",
)
@click.option(
    "--fail-on",
    type=click.Choice([str(each) for each in LintSeverity]),
    default=str(LintSeverity.ERROR),
    show_default=True,
    help="The least severity that makes the exit code 1.",
)
@click.option("--skip", multiple=True, metavar="CODE", help="Leave a code out; repeatable.")
@click.option("--baseline", type=_file, metavar="FILE", help="Tell only what is not in FILE.")
@click.option("--write-baseline", type=_file, metavar="FILE", help="Write what is found to FILE.")
@click.option(
    "--explain",
    metavar="CODE",
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Print what a code means and end; `all` lists the codes.",
)
def lint_command(  # noqa: PLR0913, PLR0917 -- the options of the command
    paths: tuple[Path, ...],
    mesh_file: Path | None,
    format_: str,
    fail_on: str,
    skip: tuple[str, ...],
    baseline: Path | None,
    write_baseline: Path | None,
) -> None:
    """Find what is legal in policies and not meant, beside what `policy validate` refuses.

    PATH are files and folders; `-` is standard input. Namespaces, service accounts and
    workloads in them are read as well, and policies held against them. To accept a
    finding, annotate the policy, with a reason and if need be an end:
    `meshwarden.io/lint-ignore: "MW0207: legacy path, until 2027-01-31"`.

    \b
    Examples:
      policy lint policies/
      policy lint policies/ --mesh istio-configmap.yaml --format sarif
      policy lint policies/ --write-baseline lint.json
      policy lint policies/ --baseline lint.json --fail-on warning
      policy lint --explain MW0207

    \b
    Exit codes: 0 nothing of the severity of --fail-on; 1 something; 2 the command line,
    the mesh settings or the baseline are wrong.
    """
    _check_codes(skip)
    with clear_errors():
        mesh = read_mesh(mesh_file)
        known = _read_baseline(baseline)
    texts, problems = read_texts(paths)
    result = lint_texts(texts, mesh, datetime.now(tz=UTC).date())
    findings = (*map(_of_problem, problems), *result.findings)
    left = [found for found in findings if found.code not in skip]
    if write_baseline is not None:
        with clear_errors(), click.open_file(str(write_baseline), "w", atomic=True) as stream:
            stream.write(render_baseline(left) + "\n")
        raise SystemExit(EXIT_CLEAN)
    result = replace(result, findings=new_findings(left, known))
    if format_ == "pretty":
        quoted = {file: text.splitlines() for file, text in texts}
        print_lint(result, quoted, Console(soft_wrap=True))
    elif rendered := _RENDERERS[format_](result):
        click.echo(rendered)
    limit = LintSeverity(fail_on).rank
    failed = any(found.severity.rank <= limit for found in result.findings)
    raise SystemExit(EXIT_FOUND if failed else EXIT_CLEAN)


def _check_codes(codes: tuple[str, ...]) -> None:
    for code in codes:
        if code.startswith("MW") and code not in load_catalogue():
            raise click.BadParameter(f"no finding has the code `{code}`", param_hint="--skip")


def _read_baseline(path: Path | None) -> Counter[str]:
    if path is None:
        return Counter()
    with click.open_file(str(path), "r", encoding="utf-8", errors="replace") as stream:
        return parse_baseline(stream.read(), str(path))


def _of_problem(found: Diagnostic) -> LintFinding:
    return LintFinding(
        code=found.code,
        severity=LintSeverity(found.severity),
        message=found.message,
        location=found.location,
        help=found.help,
    )
