"""Where the marks of charts stand: the same numbers for a page's SVG and for print.

Lengths are shares of a hundred: what draws them stretches them to its own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Final

from audit.report import OTHERS, Bar, Cell, Day

_LONGEST: Final = 100  # BUDGET: days without decisions that a chart shows as a gap
_LEVELS: Final = 5
WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Column:
    """One day: its place from the left, its width, and the heights of both answers."""

    day: Day
    left: float
    width: float
    allowed: float
    denied: float


@dataclass(frozen=True, slots=True)
class Columns:
    """A chart of days. `ticks` label the scale from the top down, `days` a few of the columns."""

    columns: tuple[Column, ...]
    ticks: tuple[str, ...]
    days: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One bar: its name, its count, its length and its share of all."""

    name: str
    count: int
    length: float
    share: float


@dataclass(frozen=True, slots=True)
class Spot:
    """One hour of one weekday: its place, its count, and how dark it is, 0 to 1."""

    weekday: str
    hour: int
    left: float
    top: float
    count: int
    shade: float


def day_columns(days: Sequence[Day], *, denied_only: bool = False) -> Columns:
    """Return the chart of answers by day, or of refusals alone."""
    shown = list(_without_gaps(days))
    most = max((day.denied + (0 if denied_only else day.allowed) for day in shown), default=0)
    top = nice_top(most)
    step = 100 / max(len(shown), 8)
    columns = tuple(
        Column(
            day,
            left=round(number * step + step * 0.1, 3),
            width=round(step * 0.8, 3),
            allowed=0.0 if denied_only else round(100 * day.allowed / top, 3),
            denied=round(100 * day.denied / top, 3),
        )
        for number, day in enumerate(shown)
    )
    labels = [day.day for day in shown]
    picked = labels if len(labels) < 4 else [labels[0], labels[len(labels) // 2], labels[-1]]
    return Columns(columns, tuple(short_count(top * part / 2) for part in (2, 1, 0)), tuple(picked))


def bar_rows(bars: Sequence[Bar]) -> tuple[Row, ...]:
    """Return bars with their lengths: the longest is all of the width, all others have none."""
    most = max((bar.count for bar in bars if bar.name != OTHERS), default=1) or 1
    whole = sum(bar.count for bar in bars) or 1
    return tuple(
        Row(
            bar.name,
            bar.count,
            0.0 if bar.name == OTHERS else round(100 * bar.count / most, 2),
            100 * bar.count / whole,
        )
        for bar in bars
    )


def plain_range(text: str) -> str:
    """Return a range of time without the parts of its times that are zero.

    >>> plain_range("2026-10-01T00:00:00.000000Z to 2026-10-02T08:30:00.000000Z")
    '2026-10-01 to 2026-10-02T08:30:00Z'
    """
    return text.replace("T00:00:00.000000Z", "").replace(".000000Z", "Z")


def hour_spots(hours: Sequence[Sequence[int]]) -> tuple[Spot, ...]:
    """Return the spots of a week, a weekday a row, or nothing where all are zero."""
    most = max((count for row in hours for count in row), default=0)
    if not most:
        return ()
    return tuple(
        Spot(
            WEEKDAYS[day],
            hour,
            left=round(100 * hour / 24, 3),
            top=round(100 * day / 7, 3),
            count=count,
            shade=round(0.12 + 0.88 * count / most, 3) if count else 0.05,
        )
        for day, row in enumerate(hours)
        for hour, count in enumerate(row)
    )


def level(cell: Cell, most: int) -> int:
    """Return how full a cell is, 0 (nothing) to 5, by the order of magnitude."""
    total = cell.allowed + cell.denied
    if not total:
        return 0
    return 1 + min(_LEVELS - 1, int(_LEVELS * math.log1p(total) / math.log1p(most or 1)))


def short_name(name: str) -> str:
    """Return the part of a peer's name that tells it from others: `shop/web`.

    >>> short_name("spiffe://cluster.local/ns/shop/sa/web")
    'shop/web'
    """
    parts = name.removeprefix("spiffe://").split("/")
    if name.startswith("spiffe://") and len(parts) == 5 and (parts[1], parts[3]) == ("ns", "sa"):
        return f"{parts[2]}/{parts[4]}"
    return name


def short_count(count: float) -> str:
    """Return a count in a few signs: `950`, `1.23k`, `34M`.

    >>> [short_count(each) for each in (0, 950, 1234, 34_000_000)]
    ['0', '950', '1.23k', '34M']
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{float(f'{count / size:.3g}'):g}{unit}"
    return f"{count:g}"


def nice_top(most: float) -> float:
    """Return the end of a scale that holds a value: a round number whose half is round too.

    >>> [nice_top(each) for each in (0, 1, 7, 130, 2100)]
    [1.0, 1.0, 8.0, 150.0, 2500.0]
    """
    size = 10.0 ** math.floor(math.log10(most)) if most > 0 else 1.0
    return next(size * part for part in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if size * part >= most)


def _without_gaps(days: Sequence[Day]) -> Iterator[Day]:
    """Yield the days in their order, and between them those without a decision."""
    for one, other in pairwise(days):
        yield one
        yield from (Day(day=day, allowed=0, denied=0) for day in _between(one.day, other.day))
    yield from days[-1:]


def _between(one: str, other: str) -> list[str]:
    """Return the days after one and before the other; none where that is no sensible gap."""
    try:
        begin, end = date.fromisoformat(one), date.fromisoformat(other)
    except ValueError:
        return []
    count = (end - begin).days
    return [str(begin + timedelta(days=n)) for n in range(1, count)] if count < _LONGEST else []
