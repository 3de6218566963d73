"""The measuring frame counts, compares and judges rightly; the clock is the test's own."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.harness import Contestant, Goal, Measurement, judge, measure, publish


class FakeClock:
    """A clock that only moves when a contestant works."""

    def __init__(self) -> None:
        self.now = 0
        self.order: list[str] = []

    def __call__(self) -> int:
        """The time now, in nanoseconds."""
        return self.now

    def worker(self, name: str, nanoseconds: int) -> Callable[[], None]:
        """A job that takes so long and leaves its name behind."""

        def work() -> None:
            self.now += nanoseconds
            if self.order[-1:] != [name]:
                self.order.append(name)

        return work


def measurement(name: str, *samples: float) -> Measurement:
    """A measurement with these samples."""
    return Measurement(name=name, samples=samples, calls_per_sample=1)


def test_a_sample_is_the_time_of_one_call() -> None:
    """The figures are nanoseconds a call, whatever the number of calls."""
    clock = FakeClock()
    contestants = [Contestant("a", clock.worker("a", 100)), Contestant("b", clock.worker("b", 700))]

    a, b = measure(contestants, rounds=3, sample_seconds=1e-5, clock=clock)

    assert (100.0, 100.0, 100.0) == a.samples
    assert 700.0 == b.median
    assert (100, 14) == (a.calls_per_sample, b.calls_per_sample)


def test_rounds_rotate_who_goes_first() -> None:
    """No contestant always has the warm or the cold place."""
    clock = FakeClock()
    contestants = [Contestant(n, clock.worker(n, 1000)) for n in ("a", "b", "c")]

    measure(contestants, rounds=3, sample_seconds=1e-6, clock=clock)

    # Calibration goes first, in the order given.
    assert "abc" + "abc" + "bca" + "cab" == "".join(clock.order)


def test_median_and_spread() -> None:
    """One slow sample moves neither far."""
    taken = measurement("a", 10, 11, 12, 13, 900)

    assert (12, 2) == (taken.median, taken.spread)
    assert 0.0 == measurement("b", 5).spread


@pytest.mark.parametrize(
    ("kind", "limit", "met"),
    [
        ("at_least", 20, True),
        ("at_least", 21, False),
        ("at_most", 20, True),
        ("at_most", 19, False),
    ],
)
def test_a_goal_is_a_ratio_with_a_direction(kind: str, limit: float, *, met: bool) -> None:
    """A gain is held from below, a cost from above, the limit itself is good."""
    goal = Goal(name="g", numerator="slow", denominator="fast", limit=limit, kind=kind)  # type: ignore[arg-type]  # a plain str in a table

    report = judge("x", [measurement("slow", 200), measurement("fast", 10)], [goal])

    assert met is report.met
    assert 20.0 == report.goals[0].ratio


@pytest.mark.parametrize("kind", ["at_least", "at_most"])
def test_a_ratio_that_is_no_number_misses(kind: str) -> None:
    """A broken measurement never passes for a good one."""
    goal = Goal(name="g", numerator="a", denominator="b", limit=1, kind=kind)  # type: ignore[arg-type]  # a plain str in a table

    assert not goal.is_met(math.nan)


def test_a_goal_on_nobody_is_an_error() -> None:
    """A goal that names a contestant wrongly is not silently met."""
    with pytest.raises(KeyError):
        judge("x", [measurement("a", 1)], [Goal(name="g", numerator="a", denominator="?", limit=1)])


@pytest.mark.parametrize(("limit", "code"), [(2, 0), (3, 1)])
def test_publishing_writes_the_result_and_gives_the_exit_code(
    tmp_path: Path, limit: float, code: int
) -> None:
    """A missed goal is an exit code of 1, and the file says so as well."""
    goal = Goal(name="gain", numerator="slow", denominator="fast", limit=limit)
    report = judge("sample", [measurement("slow", 20), measurement("fast", 10)], [goal])
    out = io.StringIO()

    got = publish(report, folder=tmp_path, console=Console(file=out, width=100))

    written = json.loads((tmp_path / "sample.json").read_text())
    assert code == got
    assert (code == 0) is written["met"]
    assert 2.0 == written["goals"][0]["ratio"]
    assert ("MISSED" in out.getvalue()) is (code == 1)
    assert ["sample.json"] == [path.name for path in tmp_path.iterdir()]
