"""`policy shadow report`: what the record says of dry-run policies."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from audit.reader import read_records
from audit.time_range import parse_range
from authz.commands.failing import clear_errors
from dryrun.shadow_report import shadows_of
from dryrun.shadow_text import FORMATS


@click.group("shadow")
def shadow_group() -> None:
    """Look at policies that are tried and not enforced.

    \b
    Examples:
      policy shadow report --audit audit/
    """


@shadow_group.command("report")
@click.option(
    "--audit", "log", required=True, type=click.Path(path_type=Path), metavar="PATH",
    help="The record: a folder of segments, or one segment.",
)  # fmt: skip
@click.option(
    "--format", "format_", type=click.Choice(list(FORMATS)), default="table", show_default=True,
    help="For people, for programs, or for a pull request.",
)  # fmt: skip
@click.option("--since", help="Begin of the range: RFC 3339, or an age such as `24h` or `7d`.")
@click.option("--until", help="End of the range, exclusive.")
def report_command(log: Path, format_: str, since: str | None, until: str | None) -> None:
    """Say of each dry-run policy in the record whether it is ready to be enforced.

    \b
    ready                   its rules matched, and nobody would be denied
    not exercised           no request came that it speaks of
    would break N callers   so many callers would be denied what they are allowed now

    The same is told of all dry-run policies `together`, and of a `candidate` set.

    \b
    Examples:
      policy shadow report --audit audit/ --since 7d
      policy shadow report --audit audit/ --format json

    \b
    Exit codes: 0 done; 2 the record or the command line are wrong.
    """
    with clear_errors():
        span = parse_range(since, until, now=datetime.now(UTC))
        sys.stdout.write(FORMATS[format_](shadows_of(read_records(log, range=span))))
