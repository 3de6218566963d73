"""`meshwarden audit query` and `meshwarden audit tail`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from audit.column_store import ColumnStore
from audit.export.json import write_lines
from audit.query import FIELDS, Query
from audit.query_columns import COLUMNS
from audit.query_engine import LogQueries
from audit.query_tail import Damaged, follow
from audit.query_text import RECORD_FORMATS, damage_line, line_of, write_groups
from audit.shortfall import Shortfall
from audit.time_range import parse_range
from authz.commands.audit_columns import column_options
from authz.commands.failing import clear_errors
from authz.commands.progress import showing_progress

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_SHOWN = 100
_LOOK_SECONDS = 0.2
_ASKED = {
    "effect": ("--decision", "What was decided."),
    "policy": ("--policy", "The deciding policy: NAMESPACE/NAME, or NAMESPACE/NAME#RULE."),
    "reason": ("--reason", "Why, such as `deny_rule_matched`."),
    "peer": ("--peer", "The peer: its SPIFFE ID or its principal; empty: none."),
    "subject": ("--subject", "The subject: ISSUER/SUB; empty: no token."),
    "destination": ("--to", "Who was called: NAMESPACE/SERVICE-ACCOUNT."),
    "method": ("--method", "The request's method."),
    "host": ("--host", "The request's host."),
    "path": ("--path", "The request's path, without its query."),
    "decision_id": ("--id", "The decision's id."),
    "node": ("--node", "The instance that decided."),
}


_EFFECTS = click.Choice(["allow", "deny"])


def _field_options(command: Decorated) -> Decorated:
    for name, (option, help_) in reversed(_ASKED.items()):
        kind = _EFFECTS if name == "effect" else None
        command = click.option(option, name, multiple=True, type=kind, help=help_)(command)
    return command


def _wanted(fields: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {name: patterns for name, patterns in fields.items() if name in FIELDS and patterns}


@click.command("query", short_help="Answer a question about the record.")
@click.argument("logs", metavar="LOG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--since", help="Begin of the range: RFC 3339, or an age such as `24h` or `7d`.")
@click.option("--until", help="End of the range, exclusive.")
@_field_options
@click.option("--where", default="", help="A condition in SQL on the columns; see below.")
@click.option("--by", help="Count by columns, separated by commas, instead of listing.")
@click.option(
    "--limit", type=click.IntRange(min=1),
    help=f"Only the newest N; {_SHOWN} for a table unless told otherwise.",
)  # fmt: skip
@click.option(
    "--format", "format_", type=click.Choice(list(RECORD_FORMATS)), default="table",
    show_default=True, help="For people, or for programs.",
)  # fmt: skip
@column_options
def query_command(  # noqa: PLR0913 - one parameter an option
    *,
    logs: tuple[Path, ...],
    since: str | None,
    until: str | None,
    where: str,
    by: str | None,
    limit: int | None,
    format_: str,
    store: ColumnStore,
    **fields: tuple[str, ...],
) -> None:
    """Answer a question about the record: folders of segments, or single segments.

    `*` in a value stands for any text. Several values of one option: one of them holds;
    several options: all of them hold. Lines that do not hold their own hash are no answer:
    segments with such lines are told on standard error, and `audit verify` names each line.

    \b
    meshwarden audit query audit/ --decision deny --since 24h --policy shop/orders --by peer
    meshwarden audit query audit/ --path '/admin/*' --where "port = 8443 AND sub <> ''"

    Exit codes: 0 done; 2 the record or the question are wrong.
    """
    with clear_errors():
        span = parse_range(since, until, now=datetime.now(UTC))
        query = Query(range=span, wanted=_wanted(fields))
        with _opened(logs, span.since, store) as queries:
            for line in Shortfall.of(queries, span).lines():
                click.echo(line, err=True)
            if by is not None:
                names = [name.strip() for name in by.split(",")]
                groups = queries.groups(query, names, where=where)
                write_groups(groups[:limit], names, sys.stdout, format=format_)
                return
            if limit is None and format_ == "table":
                limit = _SHOWN
            count = RECORD_FORMATS[format_](
                queries.records(query, where=where, limit=limit), sys.stdout
            )
    if not count and format_ == "table":
        click.echo("no decision on record fits", err=True)
    if count == limit:
        click.echo(f"the newest {count} are shown; `--limit` shows more", err=True)


def _opened(logs: tuple[Path, ...], since: str | None, store: ColumnStore) -> LogQueries:
    with showing_progress() as stage:
        return LogQueries(logs, since=since, store=store, progress=stage("reading the record"))


query_command.epilog = "Columns of --where and --by: " + ", ".join(COLUMNS) + "."


@click.command("tail", short_help="Show the newest decisions, and go on with -f.")
@click.argument("log", type=click.Path(path_type=Path, file_okay=False))
@click.option("-f", "--follow", "is_following", is_flag=True, help="Go on as decisions come.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True,
    help="Decisions to begin with.",
)  # fmt: skip
@_field_options
@click.option(
    "--format", "format_", type=click.Choice(["table", "json"]), default="table",
    show_default=True, help="For people, or for programs.",
)  # fmt: skip
def tail_command(
    log: Path, is_following: bool, lines: int, format_: str, **fields: tuple[str, ...]
) -> None:
    """Show the newest decisions of the folder LOG, and with -f each one as it is written.

    It looks back over the last two segments; `audit query --limit` over all. A line that does
    not hold its own hash is told on standard error. The options of fields are those of
    `audit query`.
    """
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    def wait() -> bool:
        # WHY looking: no event of the standard library tells that a file of another process grew.
        return is_following and not stop.wait(_LOOK_SECONDS)

    with clear_errors():
        query = Query(wanted=_wanted(fields))
        if is_following:
            signal.signal(signal.SIGINT, end)
            signal.signal(signal.SIGTERM, end)
        for found in follow(log, query, newest=lines, wait=wait):
            if isinstance(found, Damaged):
                click.echo(damage_line(found), err=True)
            elif format_ == "json":
                write_lines([found], sys.stdout)
            else:
                click.echo(line_of(found))
            sys.stdout.flush()
