"""`meshwarden audit export`, `verify-export`: decisions and reports, and what vouches for them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from audit.column_store import ColumnStore
from audit.errors import CheckpointError
from audit.export.manifest import (
    SUFFIX,
    Manifest,
    check_file,
    check_log,
    read_manifest,
)
from audit.export.run import FORMATS, Export, Exported, run_export
from audit.report import TITLES, Grant
from audit.segment_scan import digest_of
from audit.signed_note import NoteSigner, load_signer
from audit.time_range import format_time, parse_range
from authz.commands.audit_columns import column_options
from authz.commands.audit_proof import read_verifier
from authz.commands.failing import clear_errors
from authz.commands.options import SpreadingCommand
from authz.commands.progress import showing_progress
from authz.commands.replacing import replacing
from policies.files import read_policy_files
from policies.load import read_resources
from policies.model import Action, AuthorizationPolicy, Rule

_PRINCIPALS = "source.principal"
_file = click.Path(path_type=Path, dir_okay=False)


@click.command("export", cls=SpreadingCommand, short_help="Write decisions, or a report.")
@click.argument("log", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="jsonl", show_default=True,
    help="`html`, `pdf` and `md` are reports.",
)  # fmt: skip
@click.option(
    "--report", "names", multiple=True, type=click.Choice(list(TITLES)), metavar="NAME...",
    help=f"Only these sections: {', '.join(TITLES)}. Without: every decision as `csv`, `jsonl`, "
    "`parquet`; every section as `html`, `pdf`, `md`, `json`.",
)  # fmt: skip
@click.option(
    "--policies", multiple=True, type=click.Path(path_type=Path, exists=True), metavar="PATH...",
    help="The policies that grant access, for what is granted but unused.",
)  # fmt: skip
@click.option("--key", help="Verifier key of the checkpoints, NAME+KEYID+BASE64, or a file of it.")
@click.option("--since", help="Begin of the range: RFC 3339, or an age such as `24h` or `7d`.")
@click.option("--until", help="End of the range, exclusive.")
@click.option("-o", "--output", type=_file, help="File; else stdout.")
@click.option(
    "--signing-key", type=_file, envvar="MESHWARDEN_SIGNING_KEY",
    help="Private key that signs a manifest beside the file: that of the checkpoints.",
)  # fmt: skip
@click.option("--origin", help="The name it signs under: `audit.checkpointOrigin`.")
@column_options
def export_command(  # noqa: PLR0913 - one parameter an option
    *,
    log: Path,
    format_: str,
    names: tuple[str, ...],
    policies: tuple[Path, ...],
    key: str | None,
    since: str | None,
    until: str | None,
    output: Path | None,
    signing_key: Path | None,
    origin: str | None,
    store: ColumnStore,
) -> None:
    """Write the decisions of the record LOG (a folder or one segment), or a report about them.

    A report says of the whole record whether it is intact. With `--signing-key` a manifest is
    written beside the file: `audit verify-export` checks both.

    \b
    meshwarden audit export audit/ --format html --since 30d --policies policies/ -o october.html
    meshwarden audit export audit/ --format csv --report access-matrix
    meshwarden audit export audit/ --format parquet --since 24h -o decisions.parquet

    Exit codes: 0 done, also where the record is broken; 2 the record or the question are wrong.
    """
    if signing_key is not None and (output is None or not origin):
        raise click.UsageError("a signed manifest needs `--output` and `--origin`")
    with clear_errors(), showing_progress() as stage:
        now = datetime.now(UTC)
        wanted = Export(
            log=log,
            format=format_,
            range=parse_range(since, until, now=now),
            names=names,
            grants=tuple(_grants(policies)) if policies else None,
            verifier=read_verifier(key) if key is not None else None,
            is_attested=signing_key is not None,
        )
        if output is None:
            _tell_shortfall(run_export(wanted, sys.stdout, store=store, stage=stage))
            return
        signer = None if signing_key is None else load_signer(signing_key, origin or "")
        with replacing(output) as part:
            done = run_export(wanted, part, store=store, stage=stage)
            manifest = _manifest(wanted, done, output.name, part, now)
        if signer is not None:
            _write_manifest(output, manifest, signer)
    click.echo(f"{output}: {done.count} decisions", err=True)
    _tell_shortfall(done)


def _tell_shortfall(done: Exported) -> None:
    for line in done.shortfall.lines():
        click.echo(line, err=True)


def _manifest(wanted: Export, done: Exported, name: str, file: Path, now: datetime) -> str:
    """Return the text of the manifest of a file, or nothing where none was asked for."""
    if not wanted.is_attested:
        return ""
    return str(
        Manifest(
            made=format_time(now),
            format=wanted.format,
            reports=wanted.reports,
            range=wanted.range,
            digest=digest_of(file),
            size=file.stat().st_size,
            name=name,
            logs=done.logs,
        )
    )


def _write_manifest(output: Path, text: str, signer: NoteSigner) -> None:
    file = output.with_name(output.name + SUFFIX)
    with replacing(file) as part:
        part.write_bytes(signer.sign(text))
    click.echo(f"{file}: signed by `{signer.name}`", err=True)


@click.command("verify-export", short_help="Say whether an export is the signed one.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--key", required=True, help="Verifier key, NAME+KEYID+BASE64, or a file of it.")
@click.option(
    "--manifest", type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help=f"Its manifest; else FILE{SUFFIX}.",
)  # fmt: skip
@click.option(
    "--log", type=click.Path(path_type=Path, exists=True),
    help="The record it was made of: it must hold every line that it held then.",
)  # fmt: skip
def verify_export_command(file: Path, key: str, manifest: Path | None, log: Path | None) -> None:
    """Say whether an exported FILE is the one that its manifest was signed for.

    Exit code 0: it is; 1: it is not; 2: a file or the key cannot be used.
    """
    with clear_errors():
        note = (manifest or file.with_name(file.name + SUFFIX)).read_bytes()
        try:
            found = read_manifest(note, read_verifier(key))
        except CheckpointError as exc:
            click.echo(f"{file}: NOT SIGNED FOR: {exc}")
            raise SystemExit(1) from exc
        wrong = check_file(found, file)
        faults = [wrong] if wrong else []
        faults += check_log(found, log) if log is not None else []
        for fault in faults:
            click.echo(f"{file}: NOT SIGNED FOR: {fault}")
        if faults:
            raise SystemExit(1)
        click.echo(f"{file}: as it was signed at {found.made}, {found.range}")
        for state in found.logs:
            click.echo(f"  {str(state).strip()}")


def _grants(paths: Iterable[Path]) -> list[Grant]:
    """Return the rules of the ALLOW policies that are enforced.

    Raises:
        LoadError: a file cannot be read, or a resource in it is wrong.
    """
    loaded = read_resources(read_policy_files(paths))
    return [
        Grant(
            policy=f"{policy.metadata.namespace}/{policy.metadata.name}",
            rule=number,
            place=f"{rule.location.file}:{rule.location.line}",
            principals=tuple(dict.fromkeys(_named_in_full(rule))),
        )
        for policy in loaded.resources
        if isinstance(policy, AuthorizationPolicy)
        and policy.action is Action.ALLOW
        and not policy.dry_run
        for number, rule in enumerate(policy.rules)
    ]


def _named_in_full(rule: Rule) -> Iterator[str]:
    """Yield the principals that a rule names without `*`: only these can be missed by name."""
    for source in (*rule.sources, rule.when):
        for clause in source:
            if clause.key == _PRINCIPALS:
                yield from (value.text for value in clause.values if "*" not in value.text)
