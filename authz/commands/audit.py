"""`meshwarden audit`: verify and export here, `query`, `tail` and `report` beside it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from audit.access_log import FIELD, AccessLogs
from audit.commands import FORMATS, run_export, run_verify
from authz.commands.audit_proof import (
    check_proof_command,
    new_key_command,
    prove_command,
    read_verifier,
    verifier_key_command,
)
from authz.commands.failing import clear_errors
from authz.commands.late import LateGroup
from authz.commands.replacing import replacing

_log_argument = click.argument("log", type=click.Path(path_type=Path))


def _query() -> click.Command:
    from authz.commands.audit_query import query_command

    return query_command


def _tail() -> click.Command:
    from authz.commands.audit_query import tail_command

    return tail_command


def _report() -> click.Command:
    from authz.commands.audit_report import report_command

    return report_command


@click.group("audit", cls=LateGroup, late={"query": _query, "tail": _tail, "report": _report})
def audit_group() -> None:
    """Verify, ask and export the record of decisions."""


for _command in (prove_command, check_proof_command, new_key_command, verifier_key_command):
    audit_group.add_command(_command)


@audit_group.command("verify")
@click.argument("log", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--key", help="Verifier key of the checkpoints, NAME+KEYID+BASE64, or a file of it.")
@click.option(
    "--checkpoint",
    "kept",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A checkpoint of the first LOG that was kept elsewhere. May be repeated.",
)
@click.option(
    "--access-log",
    "access_logs",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Envoy's access log: each decision it names must be on record. May be repeated.",
)
@click.option(
    "--access-log-field",
    default=FIELD,
    show_default=True,
    help="Name of the decision id in the access log, as a key of JSON or as NAME=.",
)
def verify_command(
    log: tuple[Path, ...],
    key: str | None,
    kept: tuple[Path, ...],
    access_logs: tuple[Path, ...],
    access_log_field: str,
) -> None:
    """Say whether the record LOG (folders, or one segment) is intact, or where it breaks.

    Exit code 0: intact; 1: broken or incomplete; 2: there is no record to verify.
    """
    with clear_errors():
        logs = AccessLogs(access_log_field) if access_logs else None
        for path in access_logs:
            if logs is not None:
                logs.load(path)
        verifier = read_verifier(key) if key is not None else None
        raise SystemExit(
            run_verify(
                log[0], sys.stdout, also=log[1:], verifier=verifier, kept=kept, access_logs=logs
            )
        )


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
        with replacing(output) as out:
            count = run_export(log, out, format=format_, now=now, since=since, until=until)
        click.echo(f"{output}: {count} decisions", err=True)
