"""What was measured, as a Markdown table and as a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from bench.check_contest.load import Load

_LEFT: Final = 430
_WIDTH: Final = 420
_ROW: Final = 24


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant of one contest, beside the limit measured in the same rounds."""

    contest: str
    name: str
    loads: tuple[Load, ...]
    limits: tuple[Load, ...]

    @property
    def rate(self) -> float:
        """Requests a second: the median of the rounds."""
        return statistics.median(each.rate for each in self.loads)

    @property
    def spread(self) -> float:
        """The distance from the slowest round to the fastest."""
        rates = [each.rate for each in self.loads]
        return max(rates) - min(rates)

    @property
    def share(self) -> float:
        """The median over the rounds of the rate, over the limit's rate in the same round."""
        pairs = zip(self.loads, self.limits, strict=True)
        return statistics.median(own.rate / limit.rate for own, limit in pairs)

    @property
    def cpu(self) -> float:
        """Microseconds of CPU that the server takes a request: a busy machine changes it least."""
        return statistics.median(each.cpu for each in self.loads) * 1e6

    @property
    def failed(self) -> int:
        """How many requests of all rounds came to nothing, refused ones among them."""
        return sum(each.failed for each in self.loads)

    @property
    def median(self) -> float:
        """The median wait in milliseconds."""
        return statistics.median(each.median for each in self.loads) * 1e3

    @property
    def p99(self) -> float:
        """The 99th percentile of the wait in milliseconds."""
        return statistics.median(each.p99 for each in self.loads) * 1e3


def write_table(rows: Sequence[Row], path: Path) -> str:
    """Write the rows as a Markdown table, and return it."""
    lines = [
        "| contest | contestant | requests/s | spread | share | CPU µs | median ms | p99 ms "
        "| failed |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row.contest} | {row.name} | {row.rate:,.0f} | {row.spread:,.0f} | {row.share:.2f} "
        f"| {row.cpu:.0f} | {row.median:.2f} | {row.p99:.2f} | {row.failed:,} |"
        for row in rows
    ]
    text = "\n".join(lines) + "\n"
    path.write_text(text, "utf-8")
    return text


def write_plot(rows: Sequence[Row], path: Path) -> None:
    """Write the rows as bars of their share of the limit, readable in light and dark."""
    height = _ROW * (len(rows) + 2)
    highest = max([1.0, *(row.share for row in rows)])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 90} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<style>text{fill:#222}.bar{fill:#3b6fb5}.limit{stroke:#b5533b}"
        "@media (prefers-color-scheme:dark){text{fill:#ddd}.bar{fill:#6f9fe0}}</style>",
        f'<text x="{_LEFT}" y="16">share of the no-op server\'s requests a second</text>',
    ]
    for index, row in enumerate(rows):
        y = _ROW * (index + 1)
        width = _WIDTH * row.share / highest
        label = escape(f"{row.contest}: {row.name}")
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 16}" text-anchor="end">{label}</text>')
        parts.append(f'<rect class="bar" x="{_LEFT}" y="{y + 4}" width="{width:.1f}" height="16"/>')
        parts.append(f'<text x="{_LEFT + width + 6:.1f}" y="{y + 16}">{row.share:.2f}</text>')
    at = _LEFT + _WIDTH / highest
    parts.append(f'<line class="limit" x1="{at}" x2="{at}" y1="{_ROW}" y2="{height - _ROW}"/>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", "utf-8")
