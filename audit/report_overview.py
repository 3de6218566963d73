"""The numbers and charts of a report: what a reader sees before any table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from audit.query import Query
from audit.query_engine import LogQueries
from audit.report import OTHERS, Bar, Cell, Day, Overview

_BARS: Final = 8
_SIDE: Final = 12  # callers and workloads of the chart of who called what
_ALLOWED: Final = "coalesce(sum(n) FILTER (effect = 'allow'), 0)::BIGINT"
_DENIED: Final = "coalesce(sum(n) FILTER (effect <> 'allow'), 0)::BIGINT"
_RULE: Final = (
    "CASE WHEN policy <> '' THEN policy || coalesce('#' || rule, '') ELSE 'no rule: ' || reason END"
)


def build_overview(queries: LogQueries, query: Query) -> Overview:
    """Return the overview of the wanted decisions; the table `facts` counts them.

    Raises:
        AuditReadError: the columns cannot be read.
    """
    days = queries.rows(
        f"SELECT day, {_ALLOWED}, {_DENIED} FROM facts GROUP BY 1 ORDER BY 1",  # noqa: S608
        query,
    )
    ((callers, workloads, anonymous, opened),) = queries.rows(
        "SELECT count(DISTINCT peer) FILTER (peer <> ''), "
        "count(DISTINCT destination) FILTER (destination <> ''), "
        "coalesce(sum(n) FILTER (peer = ''), 0)::BIGINT, coalesce(sum(opened), 0)::BIGINT "
        "FROM facts",
        query,
    )
    ((differences,),) = queries.rows(
        "SELECT coalesce(sum(n) FILTER (outcome <> 'same'), 0)::BIGINT FROM shadows", query
    )
    names, places, cells = _matrix(queries, query)
    return Overview(
        days=tuple(Day(day=day, allowed=yes, denied=no) for day, yes, no in days),
        callers_count=callers,
        workloads_count=workloads,
        anonymous=anonymous,
        shadow_differences=differences,
        failed_open=opened,
        microseconds=_microseconds(queries, query),
        refusing=_bars(queries, query, _RULE),
        refused=_bars(queries, query, "CASE WHEN peer = '' THEN 'no peer' ELSE peer END"),
        reasons=_bars(queries, query, "reason"),
        hours=_hours(queries, query),
        callers=names,
        workloads=places,
        cells=cells,
    )


def _bars(queries: LogQueries, query: Query, name: str) -> tuple[Bar, ...]:
    """Return the names that most refusals have in common, the rest as one."""
    found = queries.rows(
        f"SELECT {name}, sum(n)::BIGINT FROM facts WHERE effect <> 'allow' "  # noqa: S608
        "GROUP BY 1 ORDER BY 2 DESC, 1",
        query,
    )
    bars = [Bar(str(each), count) for each, count in found[:_BARS]]
    if rest := sum(count for _, count in found[_BARS:]):
        bars.append(Bar(OTHERS, rest))
    return tuple(bars)


def _hours(queries: LogQueries, query: Query) -> tuple[tuple[int, ...], ...]:
    counts = [[0] * 24 for _ in range(7)]
    for day, hour, count in queries.rows(
        "SELECT isodow(try_cast(left(decided_at, 10) AS DATE)), "
        "try_cast(substr(decided_at, 12, 2) AS INTEGER), count(*) FROM wanted "
        "WHERE effect <> 'allow' GROUP BY 1, 2",
        query,
    ):
        if day is not None and hour is not None and 0 <= hour < 24:
            counts[day - 1][hour] += count
    return tuple(map(tuple, counts))


def _microseconds(queries: LogQueries, query: Query) -> tuple[int, int, int]:
    """Return how long decisions took: the median, the 99th percentile, the longest."""
    ((found,),) = queries.rows(
        "SELECT [approx_quantile(duration_microseconds, 0.5), "
        "approx_quantile(duration_microseconds, 0.99), max(duration_microseconds)] FROM wanted",
        query,
    )
    median, late, longest = (int(each or 0) for each in found)
    return median, late, longest


def _matrix(
    queries: LogQueries, query: Query
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[tuple[Cell, ...], ...]]:
    """Return the most frequent callers and workloads, and the answers between them."""
    callers, workloads = (_frequent(queries, query, name) for name in ("peer", "destination"))
    found = {
        (peer, place): Cell(yes, no)
        for peer, place, yes, no in queries.rows(
            f"SELECT peer, destination, {_ALLOWED}, {_DENIED} FROM facts GROUP BY 1, 2",  # noqa: S608
            query,
        )
    }
    nothing = Cell(0, 0)
    cells = tuple(tuple(found.get((one, other), nothing) for other in workloads) for one in callers)
    return callers, workloads, cells


def _frequent(queries: LogQueries, query: Query, name: str) -> tuple[str, ...]:
    found: Sequence[tuple[str, int]] = queries.rows(
        f"SELECT {name}, sum(n) FROM facts GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {_SIDE}",  # noqa: S608
        query,
    )
    return tuple(sorted(each for each, _ in found))
