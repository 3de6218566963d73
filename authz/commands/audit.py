"""`meshwarden audit`: verify and export here, `query` and `tail` beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import click

from audit.commands import FORMATS, run_export, run_verify
from authz.commands.failing import clear_errors
from authz.commands.late import LateGroup

_log_argument = click.argument("log", type=click.Path(path_type=Path))


def _query() -> click.Command:
    from authz.commands.audit_query import query_command

    return query_command


def _tail() -> click.Command:
    from authz.commands.audit_query import tail_command

    return tail_command


@click.group("audit", cls=LateGroup, late={"query": _query, "tail": _tail})
def audit_group() -> None:
    """Verify, ask and export the record of decisions."""


@audit_group.command("verify")
@_log_argument
def verify_command(log: Path) -> None:
    """Say whether the record LOG (a folder or one segment) is intact, or where it breaks.

    Exit code 0: intact; 1: broken; 2: there is no record to verify.
    """
    with clear_errors():
        raise SystemExit(run_verify(log, sys.stdout))


@audit_group.command("export")
@_log_argument
@click.option(
    "--format", "format_", type=click.Choice(list(FORMATS)), default="jsonl", show_default=True
)
@click.option("--since", help="Begin of the range: RFC 3339, or an age such as `24h` or `7d`.")
@click.option("--until", help="End of the range, exclusive.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File; else stdout."
)
def export_command(
    log: Path, format_: str, since: str | None, until: str | None, output: Path | None
) -> None:
    """Write the decisions of a time range as JSON lines, CSV or one HTML page."""
    with clear_errors():
        now = datetime.now(UTC)
        if output is None:
            run_export(log, sys.stdout, format=format_, now=now, since=since, until=until)
            return
        with _replacing(output) as out:
            count = run_export(log, out, format=format_, now=now, since=since, until=until)
        click.echo(f"{output}: {count} decisions", err=True)


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Yield a file that becomes `path` when the block ends well; else an older one stays."""
    if path.exists() and not path.is_file():
        # A pipe or a device is written as it stands.
        with path.open("w", encoding="utf-8", newline="") as out:
            yield out
        return
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as out:
            yield out
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
