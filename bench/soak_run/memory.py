"""Whether the memory of a group of processes grows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.check_contest.processes import Sample

_HOUR_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Slope:
    """What memory gained an hour, in megabytes, with its standard error."""

    megabytes_an_hour: float
    error: float
    samples: int


def slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """Fit a line by least squares through (seconds, megabytes); None for fewer than three."""
    if len(points) < 3:
        return None
    seconds, megabytes = zip(*points, strict=True)
    line = statistics.linear_regression(seconds, megabytes)
    left = sum((y - line.intercept - line.slope * x) ** 2 for x, y in points)
    middle = statistics.fmean(seconds)
    spread = sum((x - middle) ** 2 for x in seconds)
    error: float = (left / (len(points) - 2) / spread) ** 0.5
    return Slope(line.slope * _HOUR_SECONDS, error * _HOUR_SECONDS, len(points))


def by_minute(samples: Sequence[Sample], begun: float) -> list[tuple[float, float]]:
    """Return (seconds since `begun`, least of all processes' own megabytes) of each minute.

    WHY the least: what a reload, a packed segment or a short-lived helper takes for a moment comes
    and goes, more in one minute than in another; what is never given back is in the least too.
    """
    return _least(samples, begun, lambda sample: sample.own)


def main_by_minute(samples: Sequence[Sample], begun: float) -> list[tuple[float, float]]:
    """Return the same of the first process alone."""
    return _least(samples, begun, lambda sample: sample.main)


def _least(
    samples: Sequence[Sample], begun: float, megabytes: Callable[[Sample], float]
) -> list[tuple[float, float]]:
    minutes: dict[int, list[float]] = {}
    for sample in samples:
        minutes.setdefault(int((sample.at - begun) // 60), []).append(megabytes(sample))
    return [(60.0 * number + 30, min(own)) for number, own in sorted(minutes.items())]
