"""The measuring frame of every bench: contestants, medians, ratios, stated goals.

Theory of operation. Two contestants measured one after the other are measured on
two different machines: clocks change, neighbours come and go. So every round runs
each contestant once, in an order that rotates, and a goal is a ratio of two
contestants of one run, never a time by itself. A sample is the mean of as many
calls as fill `sample_seconds`; a contestant's figure is the median of its samples,
its spread the distance from the first to the third quartile.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from rich.console import Console
from rich.table import Table

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do the job; `run` does it once."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A stated goal: median of `numerator` / median of `denominator`, held to `limit`.

    `kind` says which side is good: `at_least` (a gain to keep) or `at_most` (a cost to bound).
    """

    name: str
    numerator: str
    denominator: str
    limit: float
    kind: Literal["at_least", "at_most"] = "at_least"

    def is_met(self, ratio: float) -> bool:
        """Whether a measured ratio meets the goal; one that is no number does not."""
        return ratio >= self.limit if self.kind == "at_least" else ratio <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one contestant took, in nanoseconds a call."""

    name: str
    samples: tuple[float, ...]
    calls_per_sample: int

    @property
    def median(self) -> float:
        """The figure to quote."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """The distance between the first and third quartile; 0 for fewer than two samples."""
        if len(self.samples) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.samples, n=4, method="inclusive")
        return third - first


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalResult:
    """A goal beside what was measured."""

    goal: Goal
    ratio: float

    @property
    def met(self) -> bool:
        """Whether the goal holds."""
        return self.goal.is_met(self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One bench: its measurements and its goals, ready to print and to write."""

    name: str
    measurements: tuple[Measurement, ...]
    goals: tuple[GoalResult, ...]

    @property
    def met(self) -> bool:
        """Whether every stated goal holds."""
        return all(result.met for result in self.goals)


def measure(
    contestants: Sequence[Contestant],
    *,
    rounds: int = 9,
    sample_seconds: float = 0.05,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> tuple[Measurement, ...]:
    """Measure the contestants against one another, interleaved.

    Args:
        contestants: at least one, names unique.
        rounds: how many samples each contestant gets.
        sample_seconds: about how long one sample lasts.
        clock: nanoseconds, monotonic.
    """
    with _garbage_collection_off():
        calls = [_calls_for(item, sample_seconds, clock) for item in contestants]
        samples: list[list[float]] = [[] for _ in contestants]
        for turn in range(rounds):
            for step in range(len(contestants)):
                index = (turn + step) % len(contestants)
                samples[index].append(_sample(contestants[index], calls[index], clock))
            gc.collect()
    return tuple(
        Measurement(name=item.name, samples=tuple(taken), calls_per_sample=count)
        for item, taken, count in zip(contestants, samples, calls, strict=True)
    )


def judge(name: str, measurements: Sequence[Measurement], goals: Sequence[Goal]) -> Report:
    """Hold the measurements against the stated goals.

    Raises:
        KeyError: a goal names a contestant that was not measured.
    """
    medians = {item.name: item.median for item in measurements}
    results = tuple(
        GoalResult(goal=goal, ratio=medians[goal.numerator] / medians[goal.denominator])
        for goal in goals
    )
    return Report(name=name, measurements=tuple(measurements), goals=results)


def publish(report: Report, *, folder: Path = RESULTS, console: Console | None = None) -> int:
    """Print the report, write `<folder>/<name>.json`, return the exit code: 1 for a missed goal."""
    write_json(report, folder)
    print_tables(report, console or Console())
    return 0 if report.met else 1


def write_json(report: Report, folder: Path) -> Path:
    """Write the report as `<name>.json`, whole or not at all; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{report.name}.json"
    unfinished = target.with_suffix(".json.tmp")
    unfinished.write_text(json.dumps(as_document(report), indent=2) + "\n", encoding="utf-8")
    unfinished.replace(target)
    return target


def as_document(report: Report) -> dict[str, Any]:
    """The report as the JSON document that is written; times in nanoseconds a call."""
    return {
        "name": report.name,
        "met": report.met,
        "machine": {
            "python": platform.python_version(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
        },
        "contestants": [
            {
                "name": item.name,
                "median_nanoseconds": round(item.median, 1),
                "spread_nanoseconds": round(item.spread, 1),
                "samples": len(item.samples),
                "calls_per_sample": item.calls_per_sample,
            }
            for item in report.measurements
        ],
        "goals": [
            {
                "name": result.goal.name,
                "ratio": round(result.ratio, 3),
                "kind": result.goal.kind,
                "limit": result.goal.limit,
                "met": result.met,
            }
            for result in report.goals
        ],
    }


def print_tables(report: Report, console: Console) -> None:
    """Print contestants and goals as two tables."""
    times = Table(title=f"bench {report.name}", title_justify="left")
    for heading in ("contestant", "median", "spread", "calls/s"):
        times.add_column(heading, justify="left" if heading == "contestant" else "right")
    for item in report.measurements:
        rate = f"{1e9 / item.median:,.0f}"
        times.add_row(item.name, _readable(item.median), _readable(item.spread), rate)
    console.print(times)
    goals = Table()
    for heading in ("goal", "measured", "limit", "verdict"):
        goals.add_column(heading, justify="right" if heading in {"measured", "limit"} else "left")
    for result in report.goals:
        sign = ">=" if result.goal.kind == "at_least" else "<="
        verdict = "met" if result.met else "[bold red]MISSED[/]"
        goals.add_row(
            result.goal.name, f"{result.ratio:.2f} x", f"{sign} {result.goal.limit:g} x", verdict
        )
    if report.goals:
        console.print(goals)


def _calls_for(contestant: Contestant, seconds: float, clock: Callable[[], int]) -> int:
    """How many calls fill one sample; doubling warms the contestant up on the way."""
    count = 1
    while (taken := _sample(contestant, count, clock) * count) < seconds * 1e9 / 4:
        count *= 2
    return max(1, round(count * seconds * 1e9 / taken))


def _sample(contestant: Contestant, calls: int, clock: Callable[[], int]) -> float:
    """Nanoseconds a call, over `calls` calls; never 0, so that a ratio always exists."""
    run = contestant.run
    started = clock()
    for _ in range(calls):
        run()
    return max(clock() - started, 1) / calls


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    """A collection in the middle of a sample would be booked on whoever ran then."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _readable(nanoseconds: float) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds:.0f} ns"
