"""`meshwarden audit verify`: is the record as it was written?"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

from audit.access_log import FIELD, AccessLogs
from audit.commands import run_verify
from authz.commands.audit_proof import read_verifier
from authz.commands.failing import clear_errors


@click.command("verify", short_help="Say whether the record is intact.")
@click.argument("log", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--key",
    "keys",
    multiple=True,
    help="Verifier key of the checkpoints, NAME+KEYID+BASE64, or a file of it. Repeated where the "
    "log was signed with others before.",
)
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
    keys: tuple[str, ...],
    kept: tuple[Path, ...],
    access_logs: tuple[Path, ...],
    access_log_field: str,
) -> None:
    """Say whether the record LOG (folders, or one segment) is intact, or where it breaks.

    Exit code 0: intact; 1: broken, incomplete or not signed throughout; 2: there is no record.
    """
    with clear_errors():
        logs = AccessLogs(access_log_field) if access_logs else None
        for path in access_logs:
            if logs is not None:
                logs.load(path)
        verifiers = [read_verifier(key) for key in keys]
        verifier = replace(verifiers[0], former=tuple(verifiers[1:])) if verifiers else None
        raise SystemExit(
            run_verify(
                log[0], sys.stdout, also=log[1:], verifier=verifier, kept=kept, access_logs=logs
            )
        )
