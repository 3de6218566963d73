"""`meshwarden audit report`: what an auditor asks, answered from the record."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from audit.export.report_text import REPORT_FORMATS
from audit.query import Query
from audit.query_engine import LogQueries
from audit.report import TITLES, Grant
from audit.report_build import build_report
from audit.time_range import parse_range
from audit.verify import verify_folder
from authz.commands.audit_proof import read_verifier
from authz.commands.failing import clear_errors
from authz.commands.options import SpreadingCommand
from authz.commands.replacing import replacing
from policies.files import read_policy_files
from policies.load import read_resources
from policies.model import Action, AuthorizationPolicy, Rule

_PRINCIPALS = "source.principal"


@click.command("report", cls=SpreadingCommand)
@click.argument("log", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_", type=click.Choice(list(REPORT_FORMATS)), default="html",
    show_default=True,
)  # fmt: skip
@click.option(
    "--report", "names", multiple=True, type=click.Choice(list(TITLES)),
    help="Only these sections; CSV takes one. Else every section.",
)  # fmt: skip
@click.option(
    "--policies", multiple=True, type=click.Path(path_type=Path, exists=True), metavar="PATH...",
    help="The policies that grant access, for what is granted but unused.",
)  # fmt: skip
@click.option("--key", help="Verifier key of the checkpoints, NAME+KEYID+BASE64, or a file of it.")
@click.option("--since", help="Begin of the range: RFC 3339, or an age such as `24h` or `7d`.")
@click.option("--until", help="End of the range, exclusive.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File; else stdout."
)
def report_command(  # noqa: PLR0913 - one parameter an option
    *,
    log: Path,
    format_: str,
    names: tuple[str, ...],
    policies: tuple[Path, ...],
    key: str | None,
    since: str | None,
    until: str | None,
    output: Path | None,
) -> None:
    """Answer what an auditor asks, from the record LOG (a folder or one segment).

    The whole record is verified first, and the report says how that went.

    \b
    meshwarden audit report audit/ --since 30d --policies policies/ -o october.html
    meshwarden audit report audit/ --report access-matrix --format csv

    Exit codes: 0 done, also where the record is broken; 2 the record or the question are wrong.
    """
    with clear_errors():
        span = parse_range(since, until, now=datetime.now(UTC))
        grants = _grants(policies) if policies else None
        verifier = read_verifier(key) if key is not None else None
        verification = verify_folder(log, verifier=verifier)
        with LogQueries([log], since=span.since) as queries:
            report = build_report(
                queries, Query(range=span), names=names, verification=verification, grants=grants
            )
        if output is None:
            REPORT_FORMATS[format_](report, sys.stdout)
            return
        with replacing(output) as out:
            REPORT_FORMATS[format_](report, out)
        count = report.allowed + report.denied
        click.echo(f"{output}: {count} decisions in {len(report.sections)} sections", err=True)


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
