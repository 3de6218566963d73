"""`policy lint`: what is legal in policies and probably not meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from authz.commands.failing import clear_errors
from authz.commands.lint_mending import mend
from authz.commands.options import mesh_option, read_mesh
from authz.commands.policy_texts import read_texts
from authz.commands.replacing import write_whole
from authz.commands.slow_bar import SlowBar
from authz.config_file import load_settings
from authz.lint_reports import (
    print_lint,
    render_checkstyle,
    render_github,
    render_json,
    render_sarif,
)
from authz.lint_sources import (
    Given,
    gather,
    holds_rego,
    modules_of_settings,
    read_rego_below,
    without_settings,
)
from opa_bridge import lint_loading, lint_meaning
from policies.diagnostic import Diagnostic, LoadError
from policies.lint.baseline import new_findings, parse_baseline, render_baseline
from policies.lint.catalogue import load_catalogue, render_page
from policies.lint.embedded import Embedded, plain_text
from policies.lint.finding import LintFinding, LintSeverity
from policies.lint.run import LintResult, lint_texts
from policies.mesh import Mesh

RULE_FILES = (lint_loading, lint_meaning)
"""The files whose import enters the rules about Rego."""

EXIT_CLEAN = 0
EXIT_FOUND = 1

_RENDERERS: dict[str, Callable[[LintResult], str]] = {
    "json": render_json,
    "sarif": render_sarif,
    "github": render_github,
    "checkstyle": render_checkstyle,
}
_file = click.Path(path_type=Path, dir_okay=False)
_input = click.Path(path_type=Path, dir_okay=False, exists=True)


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
@click.option("--config", type=_input, metavar="FILE", help="The authorizer's configuration: its "
              "mesh settings, the Rego that is asked, the trust domains it believes.")  # fmt: skip
@click.option("--ca", type=_input, metavar="FILE", help="The CA's configuration: who can hold "
              "which identity.")  # fmt: skip
@click.option("--ca-entries", type=_input, metavar="FILE", help="Its registration entries, as "
              "`meshwarden ca entries list --json` prints them.")  # fmt: skip
@click.option("--against", multiple=True, metavar="PATH",
              type=click.Path(path_type=Path, exists=True),
              help="The revision before: tell what this one lets in and that did not; "
              "repeatable.")  # fmt: skip
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
@click.option("--fix", is_flag=True, help="Mend what can be mended safely, in the files.")
@click.option("--diff", is_flag=True, help="With --fix: print the change and write nothing.")
@click.option(
    "--explain",
    metavar="CODE",
    is_eager=True,
    expose_value=False,
    callback=_explain,
    help="Print what a code means and end; `all` lists the codes.",
)
def lint_command(**options: Any) -> None:
    """Find what is legal in policies and not meant, beside what `policy validate` refuses.

    PATH are files and folders; `-` is standard input. Namespaces, service accounts,
    workloads and ConfigMaps in them are read as well, and so are Rego modules (`.rego`
    files, and ConfigMaps that hold some). What is said of several policies together is
    shown by a request, which the server's own evaluator has answered.

    To accept a finding, annotate the policy, with a reason and if need be an end:
    `meshwarden.io/lint-ignore: "MW0207: legacy path, until 2027-01-31"`; in Rego, by a
    comment `# meshwarden:lint-ignore MW0912: reason`.

    \b
    Examples:
      policy lint policies/
      policy lint policies/ --mesh istio-configmap.yaml --format sarif
      policy lint policies/ rego/ --config meshwarden.yaml
      policy lint policies/ --against /deployed/policies
      policy lint policies/ --fix --diff
      policy lint policies/ --write-baseline lint.json
      policy lint policies/ --baseline lint.json --fail-on warning
      policy lint --explain MW0207

    \b
    Exit codes: 0 nothing of the severity of --fail-on; 1 something; 2 the command line,
    the settings, the CA's entries or the baseline are wrong.
    """
    _lint(_Asked(**options))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The command line."""

    paths: tuple[Path, ...]
    mesh_file: Path | None
    config: Path | None
    ca: Path | None
    ca_entries: Path | None
    against: tuple[Path, ...]
    format_: str
    fail_on: str
    skip: tuple[str, ...]
    baseline: Path | None
    write_baseline: Path | None
    fix: bool
    diff: bool


def _lint(asked: _Asked) -> None:
    _check_codes(asked.skip)
    if asked.diff and not asked.fix:
        raise click.UsageError("--diff goes with --fix")
    with clear_errors():
        mesh = read_mesh(asked.mesh_file)
        if asked.mesh_file is None and asked.config is not None:
            load_settings(asked.config)
        given = _read_given(asked)
        known = _read_baseline(asked.baseline)
    texts, problems = read_policy_texts(asked.paths)
    texts, given = without_settings(texts, asked.paths, given)
    if asked.mesh_file is None and given.settings is not None:
        mesh = _mesh_beside(given.settings, problems)
    if asked.fix:
        with clear_errors():
            texts = mend(texts, mesh, given, is_diff=asked.diff)
        if asked.diff:
            raise SystemExit(EXIT_CLEAN)
    with clear_errors(), SlowBar("linting", Console(stderr=True)) as bar:
        facts = gather(texts, mesh, given)
        result = lint_texts(texts, facts, datetime.now(tz=UTC).date(), bar.step)
    findings = (*map(_of_problem, problems), *result.findings)
    left = [found for found in findings if found.code not in asked.skip]
    if asked.write_baseline is not None:
        baseline = render_baseline(left) + "\n"
        if str(asked.write_baseline) == "-":
            click.echo(baseline, nl=False)
            raise SystemExit(EXIT_CLEAN)
        with clear_errors():
            write_whole(asked.write_baseline, baseline)
        raise SystemExit(EXIT_CLEAN)
    result = replace(result, findings=new_findings(left, known))
    if asked.format_ == "pretty":
        every = (*texts, *((each.file, each.text) for each in given.rego))
        quoted = {file: text.splitlines() for file, text in every}
        print_lint(result, quoted, Console(soft_wrap=True))
    elif rendered := _RENDERERS[asked.format_](result):
        click.echo(rendered)
    limit = LintSeverity(asked.fail_on).rank
    failed = any(found.severity.rank <= limit for found in result.findings)
    raise SystemExit(EXIT_FOUND if failed else EXIT_CLEAN)


def read_policy_texts(
    paths: tuple[Path, ...],
) -> tuple[list[tuple[str, str]], list[Diagnostic]]:
    """Return the texts of policies that can be read, and why the others cannot.

    A folder of Rego alone holds no policy, and that is no fault.
    """
    texts, problems = read_texts([path for path in paths if path.suffix != ".rego"])
    return texts, [each for each in problems if not holds_rego(Path(each.location.file))]


def _mesh_beside(settings: Embedded, problems: list[Diagnostic]) -> Mesh:
    """Return the mesh of a settings file; what is wrong with the file is a problem of its own."""
    try:
        return load_settings(Path(settings.file)).mesh.to_mesh()
    except LoadError as exc:
        problems.extend(exc.diagnostics)
        return Mesh()


def _read_given(asked: _Asked) -> Given:
    """Return what is named beside policies and mesh.

    Raises:
        LoadError, OSError: a file cannot be read.
    """
    rego = {each.file: each for each in read_rego_below(asked.paths)}
    settings = _plain(asked.config)
    if settings is not None:
        known = {Path(file).resolve() for file in rego}
        for each in modules_of_settings(settings):
            if Path(each.file).resolve() not in known:
                rego[each.file] = each
    before: list[tuple[str, str]] | None = None
    if asked.against:
        before, problems = read_texts(asked.against)
        if problems:
            raise LoadError(problems)
    return Given(
        rego=tuple(rego.values()),
        settings=settings,
        ca=_plain(asked.ca),
        entries=_plain(asked.ca_entries),
        before=before,
    )


def _plain(path: Path | None) -> Embedded | None:
    if path is None:
        return None
    with click.open_file(str(path), "r", encoding="utf-8", errors="replace") as stream:
        return plain_text(str(path), stream.read())


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
