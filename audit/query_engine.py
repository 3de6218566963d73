"""Asking the log as a whole: SQL of an embedded engine over the columns of its segments.

Theory of operation. Each segment's columns stand in a file (`audit.column_files`), which is made
where it is missing. The view `decisions` has a column for each fact. What is found is shown from
the segment's own line, which must hold its hash. The engine may read the column files it was
opened on and nothing else, so that a filter written by hand reaches no other file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from audit.chain import parse_line, read_raw_lines
from audit.column_files import Chain, Progress, open_columns
from audit.column_store import ColumnStore, Segment, segments_of
from audit.database import duckdb
from audit.errors import AuditQueryError, AuditReadError, DamagedLineError
from audit.logs import find_all_logs
from audit.query import Query
from audit.query_columns import COLUMNS, escape_glob, quote
from audit.segment_lines import SegmentLines
from audit.time_range import TimeRange

_BATCH: Final = 1000
_ATTEMPTS: Final = 8  # BUDGET: segments that may be compressed or removed while a log is opened
_CLOCK_SLACK: Final = timedelta(hours=1)  # BUDGET: how far a node's clock may be set back
_LINE: Final = "filename, mark, at_byte"


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

    def __init__(
        self,
        logs: Sequence[Path],
        *,
        since: str | None = None,
        store: ColumnStore | None = None,
        chain: Chain = Chain.UNASKED,
        writes: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Open logs: folders of segments, or single segments.

        `since` is the begin of every question that will be asked: segments that were closed
        before it are not asked. `store` says where columns are kept; it is closed with the
        questions. `chain` asks of every segment how it is chained, for `chained`. `writes` is the
        one file that `copy_decisions` may write.

        `broken` names the asked segments of which lines are missing or changed: what these held
        is in no answer.

        Raises:
            AuditReadError: a path holds no log, or cannot be read.
        """
        self._store = store or ColumnStore()
        self._lines = SegmentLines()
        self._segment_of: dict[str, Path] = {}
        self._has_tables = False
        self._open = partial(self._open_once, logs, since, chain, writes, progress)
        try:
            _asked_again(self._open)
        except BaseException:
            self._store.close()
            raise

    def _open_once(
        self,
        logs: Sequence[Path],
        since: str | None,
        chain: Chain,
        writes: Path | None,
        progress: Progress | None,
    ) -> None:
        """Open what is there now.

        Raises:
            AuditReadError: a path holds no log, or cannot be read.
        """
        chains = find_all_logs(logs)
        # INVARIANT: listed once. A segment that is compressed in between has two names, and would
        # be asked by one and known by the other.
        listed = [_segments(log, since) for log in chains]
        is_asked = chain is not Chain.UNASKED
        flat = [each for every, wanted in listed for each in (every if is_asked else wanted)]
        found = open_columns(flat, self._store, chain=chain, progress=progress)
        asked = {each.path for _, wanted in listed for each in wanted}
        self._columns = [each for each in found if each.segment in asked]
        self.chained = {each.segment: each.chained for each in found if each.chained}
        self.noted = sum(each.is_noted for each in found)
        self._engine = _open_engine([str(each.file) for each in self._columns], writes)
        self.broken = tuple(each.segment for each in self._columns if each.is_broken)
        self._is_one_chain = len(chains) == 1
        # Kept beside those of before: an answer may still be told from them.
        self._segment_of |= {str(each.file): each.segment for each in self._columns}

    def __enter__(self) -> Self:
        """Return the open logs."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close them, and remove the columns that are not kept."""
        self._engine.close()
        self._lines.close()
        self._store.close()

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
        wanted = self._wanted(query, where, parameters)
        statement = f"SELECT {_LINE} FROM ({wanted})"  # noqa: S608
        if limit is not None:
            order = "ORDER BY decided_at DESC, node DESC, seq DESC"
            newest = f"SELECT * FROM ({wanted}) {order} LIMIT {limit:d}"  # noqa: S608
            statement = f"SELECT {_LINE} FROM ({newest}) ORDER BY decided_at, node, seq"  # noqa: S608
        elif not self._is_one_chain:
            statement += " ORDER BY decided_at, node, seq"
        yield from self._documents(statement, parameters)

    def newest(self, query: Query, count: int) -> list[dict[str, Any]]:
        """Return the newest of the wanted documents, the newest first.

        Raises:
            AuditReadError: a segment cannot be read.
        """
        return list(self.records(query, limit=count))[::-1]

    def _documents(self, statement: str, parameters: list[object]) -> Iterator[dict[str, Any]]:
        try:
            for file, mark, at_byte in self._rows(statement, parameters):
                yield self._lines.line(self._segment_of[file], mark, at_byte).document
        except OSError as exc:
            raise AuditReadError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc

    def count(self, query: Query) -> int:
        """Return how many decisions are wanted.

        Raises:
            AuditReadError: a segment cannot be read.
        """
        ((found,),) = self.rows("SELECT count(*) FROM wanted", query)
        return int(found)

    def copy_decisions(self, query: Query, file: Path) -> int:
        """Write the columns of the wanted decisions as a Parquet file, and return how many.

        Raises:
            AuditReadError: a segment cannot be read, or the file cannot be written.
        """
        parameters: list[object] = []
        wanted = self._wanted(query, "", parameters)
        order = "" if self._is_one_chain else " ORDER BY decided_at, node, seq"
        statement = (
            f"COPY (SELECT {', '.join(COLUMNS)} FROM ({wanted}){order}) "  # noqa: S608
            f"TO {quote(str(file.absolute()))} "
            # WHY: the engine may write this file, and no other beside it.
            "(FORMAT parquet, COMPRESSION zstd, USE_TMP_FILE false)"
        )
        ((count,),) = self._rows(statement, parameters)
        return int(count)

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
        statement = f"SELECT {_LINE} FROM decisions WHERE kind = 'event' AND event IN ({marks})"  # noqa: S608
        for document in self._documents(statement, list(names)):
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
        self._has_tables = True

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

    def _executed(self, statement: str, parameters: list[object]) -> duckdb.DuckDBPyConnection:
        """Return an answer of which nothing was told yet.

        Raises:
            AuditReadError: columns went which tables were made of that are asked as well.
            duckdb.Error: of many kinds, when the engine has no answer.
        """
        try:
            return self._engine.execute(statement, parameters)
        except duckdb.Error as exc:
            # The columns of a segment go when it is compressed or removed.
            if all(each.file.exists() for each in self._columns):
                raise
            if self._has_tables:
                raise AuditReadError("segments were compressed or removed amid questions") from exc
        self._engine.close()
        _asked_again(self._open)
        return self._engine.execute(statement, parameters)

    def _rows(self, statement: str, parameters: list[object]) -> Iterator[tuple[Any, ...]]:
        try:
            cursor = self._executed(statement, parameters)
            while rows := cursor.fetchmany(_BATCH):
                yield from rows
        except (duckdb.IOException, duckdb.OutOfMemoryException) as exc:
            raise AuditReadError(
                f"the columns of the log cannot be read: {_first_line(exc)}"
            ) from exc
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
                parameters.append(_like(pattern) if "*" in pattern else pattern)
                exact = f"{column} LIKE ? ESCAPE '\\'" if "*" in pattern else f"{column} = ?"
                alternatives.append(exact)
        yield f"({' OR '.join(alternatives) or 'false'})"


_RULE: Final = "(policy || coalesce('#' || rule, ''))"


def _like(pattern: str) -> str:
    """Return a pattern as SQL's LIKE has it, with `\\` before what is meant as it stands."""
    for sign in ("\\", "%", "_"):
        pattern = pattern.replace(sign, "\\" + sign)
    return pattern.replace("*", "%")


def _asked_again(opening: Callable[[], None]) -> None:
    """Open a log; where a file has gone meanwhile, open what there is now.

    Raises:
        AuditReadError: it cannot be opened, or files went each time.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            opening()
            return
        except AuditReadError as exc:
            if not isinstance(exc.__cause__, FileNotFoundError | duckdb.IOException):
                raise
    opening()


def _segments(log: Path, since: str | None) -> tuple[list[Segment], list[Segment]]:
    """Return all segments of a log, and those that may hold a decision of `since` or later."""
    try:
        found = segments_of(log)
        return found, _not_before(since, found) if since else found
    except OSError as exc:
        raise AuditReadError(f"`{log}` cannot be read: {exc.strerror}") from exc


def _not_before(since: str, segments: list[Segment]) -> list[Segment]:
    """Return the segments that may hold a decision of `since` or later.

    A decision is written after it was made: a segment holds none that is newer than the header
    of the segment after it. How old its oldest is, nothing tells.
    """
    begin = (datetime.fromisoformat(since) - _CLOCK_SLACK).strftime("%Y-%m-%dT%H:%M:%S")
    pairs = pairwise(segments)
    needed = [first for first, second in pairs if not _made_before(begin, second.path)]
    return [*needed, segments[-1]]


def _made_before(begin: str, file: Path) -> bool:
    """Whether a segment's header holds its hash and tells a time before `begin`."""
    try:
        document = parse_line(next(read_raw_lines(file), b"")).document
    except DamagedLineError:
        return False
    created_at = document.get("created_at")
    return isinstance(created_at, str) and created_at < begin


def _open_engine(files: Sequence[str], writes: Path | None) -> duckdb.DuckDBPyConnection:
    """Return an engine that sees column files as `decisions`, may write one file, and no other."""
    engine = duckdb.connect(
        config={
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "python_enable_replacements": "false",
            "temp_directory": "",
        }
    )
    names = ", ".join(quote(escape_glob(file)) for file in files)
    shown = ", ".join(COLUMNS)
    try:
        engine.execute(
            f"CREATE VIEW decisions AS SELECT {_LINE}, {shown} "  # noqa: S608
            f"FROM read_parquet([{names}], filename = true)"
        )
        engine.execute(f"CREATE TABLE decisions_empty AS SELECT {shown} FROM decisions LIMIT 0")  # noqa: S608
        reached = [name for file in files for name in (file, escape_glob(file))]
        reached += [str(writes.absolute())] if writes is not None else []
        allowed = ", ".join(map(quote, reached))
        engine.execute(f"SET allowed_paths = [{allowed}]")
        engine.execute("SET enable_external_access = false")
        engine.execute("SET lock_configuration = true")
    except duckdb.Error as exc:
        engine.close()
        raise AuditReadError(f"the columns of the log cannot be read: {_first_line(exc)}") from exc
    return engine


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
