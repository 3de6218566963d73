"""`policy replay`: recorded requests decided again, and what would change."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from audit.reader import count_lines, read_records
from audit.record import Kind
from audit.time_range import TimeRange, parse_range
from authz.commands.evaluating import rego_by_provider
from authz.commands.failing import clear_errors
from authz.commands.options import SpreadingCommand, mesh_option, read_mesh
from authz.config_file import load_settings
from authz.evaluate_state import load_evaluation
from authz.logging_setup import logging_aside
from authz.provider_parts import make_terms
from authz.replay_parts import candidate_set, load_new_rego
from authz.settings import Settings
from dryrun.replay import Replayer
from dryrun.replay_report import ReplayReport, report_of
from dryrun.replay_text import FORMATS

EXIT_CHANGED = 1

_PATHS = click.Path(path_type=Path)
_EVERY_KIND = tuple(kind.value for kind in Kind)


@click.command("replay", cls=SpreadingCommand, short_help="Decide recorded requests again.")
@click.option(
    "--audit", "log", required=True, type=_PATHS, metavar="PATH",
    help="The record: a folder of segments, or one segment.",
)  # fmt: skip
@click.option(
    "--policies", multiple=True, required=True, type=_PATHS, metavar="PATH...",
    help="The whole policy set as it would be: files and folders.",
)  # fmt: skip
@click.option(
    "--rego", multiple=True, metavar="[NAME=]PATH...",
    help="Rego that would answer for the provider NAME, or for all. Without it, a provider's "
    "recorded answers stand.",
)  # fmt: skip
@click.option("--rego-entrypoint", default="", metavar="RULE", help="The rule that is asked.")
@click.option(
    "--rego-data", multiple=True, type=_PATHS, metavar="PATH...",
    help="JSON or YAML files merged into Rego's `data`.",
)  # fmt: skip
@mesh_option()
@click.option(
    "-c", "--config", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
    help="Take the mesh settings, and what a provider's failure means, from this configuration "
    "of the server.",
)  # fmt: skip
@click.option(
    "--format", "format_", type=click.Choice(list(FORMATS)), default="table", show_default=True,
    help="For people, for programs, or for a pull request.",
)  # fmt: skip
@click.option(
    "--fail-on", type=click.Choice(["new-deny", "new-allow", "any"]), default=None,
    help="Exit with 1 when an answer changes so.",
)  # fmt: skip
@click.option("--since", help="Begin of the range: RFC 3339, or an age such as `24h` or `7d`.")
@click.option("--until", help="End of the range, exclusive.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, no warnings.")
def replay_command(  # noqa: PLR0913, PLR0917 - the options of one command line
    log: Path,
    policies: tuple[Path, ...],
    rego: tuple[str, ...],
    rego_entrypoint: str,
    rego_data: tuple[Path, ...],
    mesh_file: Path | None,
    config: Path | None,
    format_: str,
    fail_on: str | None,
    since: str | None,
    until: str | None,
    quiet: bool,
) -> None:
    """Decide recorded requests again under other policies, and print what changes.

    Changes are grouped by source, destination, method, path template and deciding
    rule, each with a count, first and last time and one decision to look up. What the
    record does not hold (tokens, bodies, headers that no policy looked at) is never
    guessed: where it matters, the request is counted as not replayed exactly.

    \b
    Examples:
      policy replay --audit audit/ --policies new/
      policy replay --audit audit/ --policies new/ --rego new/rego --since 24h \\
                    --format markdown --fail-on new-deny

    \b
    Exit codes: 0 done; 1 --fail-on found such a change; 2 the record, the policies,
    the Rego or the command line are wrong.
    """
    with logging_aside(), clear_errors():
        span = parse_range(since, until, now=datetime.now(UTC))
        sources = rego_by_provider(rego, rego_data, rego_entrypoint)
        settings = Settings() if config is None else load_settings(config)
        mesh = settings.mesh.to_mesh() if mesh_file is None else read_mesh(mesh_file)
        state = load_evaluation(policies, mesh, sources)
        terms = make_terms(settings.providers, mesh, state.snapshot.providers)
        state = replace(state, terms=terms)
        if not quiet:
            for warning in state.warnings:
                click.echo(str(warning), err=True)
        replayer = Replayer(candidate_set(state, load_new_rego(state, sources)))
        report = _replay(log, span, replayer, quiet=quiet)
        sys.stdout.write(FORMATS[format_](report))
    raise SystemExit(EXIT_CHANGED if fail_on and report.is_failed_by(fail_on) else 0)


def _replay(log: Path, span: TimeRange, replayer: Replayer, *, quiet: bool) -> ReplayReport:
    """Replay the record under a progress bar on standard error."""
    total = count_lines(log)
    bar = Progress(
        TextColumn("replay"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} lines"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=quiet,
    )
    with bar:
        task = bar.add_task("replay", total=total)
        believed = 0

        def decisions() -> Iterator[Mapping[str, Any]]:
            nonlocal believed
            for document in _watched(read_records(log, kinds=_EVERY_KIND), bar, task):
                believed += 1
                at = str(document.get("decided_at", ""))
                if document["kind"] == Kind.DECISION and at in span:
                    yield document

        report = report_of(replayer.replay(decisions()))
    # A log that is written to meanwhile has more lines than were counted.
    report.unbelieved = max(0, total - believed)
    return report


def _watched(
    documents: Iterable[dict[str, Any]], bar: Progress, task: Any, step: int = 500
) -> Iterator[dict[str, Any]]:
    """Yield the documents, moving the bar now and then."""
    for number, document in enumerate(documents, 1):
        yield document
        if number % step == 0:
            bar.update(task, completed=number)
    bar.update(task, completed=bar.tasks[task].total)
