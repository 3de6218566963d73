"""Asking the log as a whole: SQL of an embedded engine over the segments as they lie.

Theory of operation. A segment is read as lines of text, nothing is imported or kept. The view
`decisions` has a column for each fact, taken out of a line's JSON only where a question names
it. A line that does not hold its own hash is not believed and left out, as in `audit.reader`.
The engine may read the segments it was opened on and nothing else, so that a filter written
by hand reaches no other file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import duckdb

from audit.chain import MAX_LINE_BYTES, list_segments, parse_line, read_raw_lines
from audit.errors import AuditQueryError, AuditReadError, DamagedLineError
from audit.logs import find_all_logs
from audit.query import Query
from audit.time_range import TimeRange

_TAIL: Final = 75  # `,"hash":"`, 64 digits, `"}`: what a line's hash does not cover
_BATCH: Final = 1000
_CLOCK_SLACK: Final = timedelta(hours=1)  # BUDGET: how far a node's clock may be set back
# A header's byte that is no UTF-8 stands in a line as half a surrogate pair, which the engine's
# JSON refuses. It is left out of what is compared, else one byte would hide a caller from every
# question. Whole pairs, and backslashes that are escaped themselves, stay.
_ESCAPES: Final = r"(\\\\|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|\\ud[89a-f][0-9a-f]{2}"
_READABLE: Final = (
    r"CASE WHEN contains(line, '\ud') THEN "
    rf"regexp_replace(line, '{_ESCAPES}', '\1', 'g') ELSE line END"
)


def _value(path: str) -> str:
    return f"TRY(text->>'$.{path}')"


def _text(path: str) -> str:
    return f"coalesce({_value(path)}, '')"


def _number(path: str, type_: str = "INTEGER") -> str:
    return f"try_cast({_value(path)} AS {type_})"


COLUMNS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "kind": _text("kind"),
        "seq": _number("seq", "BIGINT"),
        "decided_at": _text("decided_at"),
        "decision_id": _text("decision_id"),
        "effect": _text("decision.effect"),
        "reason": _text("decision.reason"),
        "layer": _text("decision.layer"),
        "http_status": _number("decision.http_status"),
        "policy": _text("decision.policy"),
        "rule": _number("decision.rule"),
        "place": _text("decision.place"),
        "detail": _text("decision.detail"),
        "near_miss": _text("decision.near_miss"),
        "peer": f"coalesce(nullif({_value('peer.spiffe_id')}, ''), {_value('peer.principal')}, '')",
        "proof": _text("peer.proof"),
        "issuer": _text("subject.issuer"),
        "sub": _text("subject.sub"),
        "subject": "CASE WHEN TRY(json_type(text, '$.subject')) = 'OBJECT' THEN "
        f"{_text('subject.issuer')} || '/' || {_text('subject.sub')} ELSE '' END",
        "source_address": _text("source.address"),
        "destination": f"{_text('destination.namespace')} || coalesce('/' || "
        f"nullif({_value('destination.service_account')}, ''), '')",
        "port": _number("destination.port"),
        "method": _text("request.method"),
        "host": _text("request.host"),
        "path": f"split_part({_text('request.path')}, '?', 1)",
        "request_id": _text("request.id"),
        "node": _text("node"),
        "revision": _text("revision"),
        "duration_microseconds": _number("duration_microseconds", "BIGINT"),
        "shadow": "TRY(text->'$.shadow')",
        "event": _text("event"),
        "failed_open": "TRY(text->'$.failed_open')",
    }
)
"""The columns of the view `decisions`, each with how it is taken from a line."""


@dataclass(frozen=True, slots=True)
class Group:
    """Decisions that have a value in common. Times are texts of the record."""

    value: tuple[str, ...]
    allowed: int
    denied: int
    first_at: str
    last_at: str


class LogQueries:
    """The segments of one or more logs, open for questions; a context manager."""

    def __init__(self, logs: Sequence[Path], *, since: str | None = None) -> None:
        """Open logs: folders of segments, or single segments.

        `since` is the begin of every question that will be asked: segments that were closed
        before it are not read.

        Raises:
            AuditReadError: a path holds no log, or cannot be read.
        """
        chains = find_all_logs(logs)
        files = [file for log in chains for file in _segments(log, since)]
        self._is_one_chain = len(chains) == 1
        self._engine = _open_engine(files)

    def __enter__(self) -> Self:
        """Return the open logs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close them."""
        self._engine.close()

    def records(
        self, query: Query, *, where: str = "", limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield the wanted documents in reading order; with a limit, the newest of them.

        `where` is a condition in SQL on the columns of `COLUMNS`.

        Raises:
            AuditQueryError: the condition cannot be understood.
            AuditReadError: a segment cannot be read.
        """
        parameters: list[object] = []
        statement = f"SELECT line FROM ({self._wanted(query, where, parameters)})"  # noqa: S608
        if limit is not None:
            newest = f"{statement} ORDER BY decided_at DESC, node DESC, seq DESC LIMIT {limit:d}"
            statement = f"SELECT line FROM ({self._newest(newest)}) ORDER BY decided_at, node, seq"  # noqa: S608
        elif not self._is_one_chain:
            statement += " ORDER BY decided_at, node, seq"
        for (line,) in self._rows(statement, parameters):
            yield parse_line(line.encode("ascii") + b"\n").document

    @staticmethod
    def _newest(statement: str) -> str:
        return statement.replace("SELECT line FROM", "SELECT line, decided_at, node, seq FROM", 1)

    def groups(self, query: Query, by: Sequence[str], *, where: str = "") -> list[Group]:
        """Return the wanted decisions counted by columns, the most first.

        Raises:
            AuditQueryError: a column or the condition cannot be understood.
            AuditReadError: a segment cannot be read.
        """
        for name in by:
            if name not in COLUMNS:
                raise AuditQueryError(
                    f"`{name}` is no column: expected one of {', '.join(COLUMNS)}"
                )
        parameters: list[object] = []
        names = ", ".join(f"coalesce({name}::VARCHAR, '')" for name in by)
        keys = ", ".join(str(number + 1) for number in range(len(by)))
        statement = (
            f"SELECT {names}, count(*) FILTER (effect = 'allow'), "  # noqa: S608
            "count(*) FILTER (effect <> 'allow'), min(decided_at), max(decided_at) "
            f"FROM ({self._wanted(query, where, parameters)}) "
            f"GROUP BY {keys} ORDER BY count(*) DESC, {keys}"
        )
        width = len(by)
        return [
            Group(tuple(row[:width]), *row[width:]) for row in self._rows(statement, parameters)
        ]

    def events(self, range: TimeRange, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the events of these names in the range, in reading order.

        Raises:
            AuditReadError: a segment cannot be read.
        """
        marks = ", ".join("?" for _ in names)
        statement = f"SELECT line FROM decisions WHERE kind = 'event' AND event IN ({marks})"  # noqa: S608
        for (line,) in self._rows(statement, list(names)):
            document = parse_line(line.encode("ascii") + b"\n").document
            if str(document.get("at", "")) in range:
                yield document

    def rows(self, statement: str, query: Query) -> list[tuple[Any, ...]]:
        """Return what a statement of ours says of the view `wanted`: the wanted decisions.

        Raises:
            AuditReadError: a segment cannot be read.
        """
        parameters: list[object] = []
        wanted = self._wanted(query, "", parameters)
        return list(self._rows(f"WITH wanted AS ({wanted}) {statement}", parameters))

    def tabulate(self, name: str, statement: str, query: Query) -> None:
        """Keep what a statement of ours says of the view `wanted` as a table in memory.

        Raises:
            AuditReadError: a segment cannot be read.
        """
        parameters: list[object] = []
        wanted = self._wanted(query, "", parameters)
        made = f"CREATE OR REPLACE TEMP TABLE {name} AS WITH wanted AS ({wanted}) {statement}"
        for _ in self._rows(made, parameters):
            pass

    def _wanted(self, query: Query, where: str, parameters: list[object]) -> str:
        """Return the statement of the wanted rows, and add the values it is asked with."""
        conditions = ["kind = 'decision'", *_conditions(query, parameters)]
        statement = f"SELECT * FROM decisions WHERE {' AND '.join(conditions)}"  # noqa: S608
        if not where:
            return statement
        self._check_condition(where)
        return f"SELECT * FROM ({statement}) WHERE ({where}\n)"  # noqa: S608

    def _check_condition(self, where: str) -> None:
        """Refuse a text that is not one condition, before it stands in a statement.

        Raises:
            AuditQueryError: the text is no condition on the columns.
        """
        try:
            expression = duckdb.SQLExpression(where)
            self._engine.table("decisions_empty").filter(expression).fetchall()
        except duckdb.Error as exc:
            raise AuditQueryError(f"`{where}` is no condition: {_first_line(exc)}") from exc

    def _rows(self, statement: str, parameters: list[object]) -> Iterator[tuple[Any, ...]]:
        try:
            cursor = self._engine.execute(statement, parameters)
            while rows := cursor.fetchmany(_BATCH):
                yield from rows
        except (duckdb.IOException, duckdb.OutOfMemoryException) as exc:
            raise AuditReadError(f"the log cannot be read: {_first_line(exc)}") from exc
        except duckdb.Error as exc:
            raise AuditQueryError(f"the question cannot be answered: {_first_line(exc)}") from exc


def _conditions(query: Query, parameters: list[object]) -> Iterator[str]:
    """Yield a query's conditions, their values as parameters and never as text."""
    if query.range.since is not None:
        parameters.append(query.range.since)
        yield "decided_at >= ?"
    if query.range.until is not None:
        parameters.append(query.range.until)
        yield "decided_at < ?"
    for name, patterns in query.wanted.items():
        columns = ("policy", _RULE) if name == "policy" else (name,)
        alternatives = []
        for pattern in patterns:
            for column in columns:
                rough = _rough(name, pattern, parameters)
                parameters.append(_like(pattern) if "*" in pattern else pattern)
                exact = f"{column} LIKE ? ESCAPE '\\'" if "*" in pattern else f"{column} = ?"
                alternatives.append(f"({rough}{exact})")
        yield f"({' OR '.join(alternatives) or 'false'})"


def _rough(name: str, pattern: str, parameters: list[object]) -> str:
    """Return what a line's text must hold for the pattern to hold: far cheaper to ask first."""
    if name in _COMPOSED:
        return ""
    pieces = (json.dumps(piece.partition("#")[0])[1:-1] for piece in pattern.split("*"))
    found = [piece for piece in pieces if piece]
    parameters.extend(found)
    return "contains(text, ?) AND " * len(found)


_COMPOSED: Final = ("subject", "destination")
_RULE: Final = "(policy || coalesce('#' || rule, ''))"


def _like(pattern: str) -> str:
    """Return a pattern as SQL's LIKE has it, with `\\` before what is meant as it stands."""
    for sign in ("\\", "%", "_"):
        pattern = pattern.replace(sign, "\\" + sign)
    return pattern.replace("*", "%")


def _segments(log: Path, since: str | None) -> list[Path]:
    try:
        files = [log] if log.is_file() else [file for _, file in list_segments(log)]
        return [file.absolute() for file in (_not_before(since, files) if since else files)]
    except OSError as exc:
        raise AuditReadError(f"`{log}` cannot be read: {exc.strerror}") from exc


def _not_before(since: str, files: list[Path]) -> list[Path]:
    """Return the segments that may hold a decision of `since` or later.

    A decision is written after it was made: a segment holds none that is newer than the header
    of the segment after it. How old its oldest is, nothing tells.
    """
    begin = (datetime.fromisoformat(since) - _CLOCK_SLACK).strftime("%Y-%m-%dT%H:%M:%S")
    needed = [first for first, second in pairwise(files) if not _made_before(begin, second)]
    return [*needed, files[-1]]


def _made_before(begin: str, file: Path) -> bool:
    """Whether a segment's header holds its hash and tells a time before `begin`."""
    try:
        document = parse_line(next(read_raw_lines(file), b"")).document
    except DamagedLineError:
        return False
    created_at = document.get("created_at")
    return isinstance(created_at, str) and created_at < begin


def _open_engine(files: Sequence[Path]) -> duckdb.DuckDBPyConnection:
    """Return an engine that sees the lines of the files as `decisions`, and no other file."""
    engine = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
        }
    )
    names = ", ".join(_literal(_escape_glob(str(file))) for file in files)
    # WHY as CSV: a line is ASCII without control characters, so that one column without
    # quotes takes it as it stands, whatever was done to it; bytes that are no text are left out.
    lines = (
        f"SELECT line FROM read_csv([{names}], columns = {{'line': 'VARCHAR'}}, "  # noqa: S608
        "auto_detect = false, header = false, delim = '\x1f', quote = '', escape = '', "
        f"comment = '', max_line_size = {MAX_LINE_BYTES:d}, ignore_errors = true, "
        "strict_mode = false, null_padding = false)"
    )
    believed = (
        f"SELECT line, {_READABLE} AS text FROM ({lines}) WHERE right(line, {_TAIL}) = "  # noqa: S608
        f"',\"hash\":\"' || sha256(left(line, -{_TAIL})) || '\"}}'"
    )
    columns = ", ".join(f"{expression} AS {name}" for name, expression in COLUMNS.items())
    try:
        engine.execute(f"CREATE VIEW decisions AS SELECT line, text, {columns} FROM ({believed})")  # noqa: S608
        engine.execute("CREATE TABLE decisions_empty AS SELECT * FROM decisions LIMIT 0")
        allowed = ", ".join(
            _literal(name) for file in files for name in (str(file), _escape_glob(str(file)))
        )
        engine.execute(f"SET allowed_paths = [{allowed}]")
        engine.execute("SET enable_external_access = false")
        engine.execute("SET lock_configuration = true")
    except duckdb.Error as exc:
        engine.close()
        raise AuditReadError(f"the log cannot be read: {_first_line(exc)}") from exc
    return engine


def _escape_glob(name: str) -> str:
    """Return a file's name so that no sign in it stands for other names."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
