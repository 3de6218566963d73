"""The embedded engine's two ways: in process, and by a worker where that is not to be."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.errors import EngineInputError, EngineTimeout

# Plain Rego that takes a step for each combination.
COMBINATIONS = """package a
default r := false
r if {
    some x in input.l
    some y in input.l
    some z in input.l
    x != z
    y == x
    y == z
}
r if lower(input.name) == "ok"
"""


@pytest.fixture
def engine() -> Iterator[EmbeddedEngine]:
    """Yield an engine with that policy."""
    found = EmbeddedEngine([("a.rego", COMBINATIONS)], "a/r", {}, budget_seconds=0.5, workers=1)
    yield found
    found.close()


def test_plain_entrypoint_needs_no_worker(engine: EmbeddedEngine) -> None:
    """What is in the fragment is answered in process, and says so."""
    assert [engine.evaluate({"l": [1, 2], "name": name}) for name in ("OK", "no")] == [True, False]
    stats = engine.stats()
    assert (stats.where, stats.why, stats.in_process, stats.handed_over) == ("process", "", 2, 0)


def test_runaway_goes_to_a_worker_and_is_stopped(engine: EmbeddedEngine) -> None:
    """Steps without end are given up, begun anew in a worker, and stopped there at the budget."""
    with pytest.raises(EngineTimeout, match="stopped"):
        engine.evaluate({"l": list(range(2000))})
    assert engine.evaluate({"l": [], "name": "ok"}) is True
    stats = engine.stats()
    assert (stats.handed_over, stats.workers_replaced, stats.in_process) == (1, 1, 1)


def test_worker_answers_what_is_handed_over(engine: EmbeddedEngine) -> None:
    """A worker's answer is the answer; what no engine carries is refused at once."""
    assert engine.evaluate({"l": list(range(40))}) is False
    assert engine.evaluate({"name": "\u0130"}) is False
    with pytest.raises(EngineInputError):
        engine.evaluate({"name": float("nan")})
    assert engine.stats().handed_over == 2  # the first two


def test_no_time_left_for_a_worker(engine: EmbeddedEngine) -> None:
    """When the caller's time is over by then, no worker is asked."""
    with pytest.raises(EngineTimeout):
        engine.evaluate({"l": list(range(2000))}, 0.001)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("r := numbers.range(1, 2)", "a.rego:2: the built-in `numbers.range`"),
        (
            "\nr if {\n  h == 1\n}\nh := x if some x in input.l",
            "a.rego:4: `a/h` may have two values",
        ),
        ("r := input.x % 2", "a.rego:2: a statement goes on where it was thought to end at `%`"),
    ],
)
def test_reason_names_its_place(source: str, why: str) -> None:
    """Why an entrypoint is for the workers is told with file and line."""
    engine = EmbeddedEngine([("a.rego", f"package a\n{source}\n")], "a/r", {}, workers=1)
    stats = engine.stats()
    engine.close()
    assert (stats.where, stats.why) == ("worker", why)


def test_many_threads_at_once(engine: EmbeddedEngine) -> None:
    """Evaluations at the same time do not see each other's variables."""
    wrong: list[object] = []

    def ask(number: int) -> None:
        for turn in range(200):
            name = "OK" if (turn + number) % 2 else "no"
            if engine.evaluate({"l": [number, turn], "name": name}) is not (name == "OK"):
                wrong.append((number, turn))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert engine.stats().in_process == 6 * 200
