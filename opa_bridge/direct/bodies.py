"""Bodies as closures: `step(run, frame)` tries what follows for each solution.

A step returns true when nobody needs another solution, which ends every loop around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from opa_bridge.direct.run import Run
from opa_bridge.direct.terms import Frame, TermFn
from opa_bridge.direct.values import UNDEFINED, RegoSet

Step = Callable[[Run, Frame], bool]
# What stands in a body: a test, or what makes a step of the step behind it.
Test = Callable[[Run, Frame], bool]
Loop = Callable[[Step], Step]


class Steps:
    """The literals of a body so far."""

    def __init__(self) -> None:
        """Begin with none."""
        self._parts: list[list[Test] | Loop] = []
        self.iterates = False
        """Whether there may be several solutions."""

    def test(self, test: Test) -> None:
        """Add a condition or an assignment."""
        if self._parts and isinstance(self._parts[-1], list):
            self._parts[-1].append(test)
        else:
            self._parts.append([test])

    def loop(self, domain: TermFn, key: int, value: int) -> None:
        """Add an iteration, which puts keys and values into two places of the frame."""
        self.iterates = True
        self._parts.append(lambda following: _iteration(domain, key, value, following))

    def ending(self, end: Step) -> Step:
        """Return the whole, with what is done for each solution."""
        step = end
        for part in reversed(self._parts):
            step = _tests(tuple(part), step) if isinstance(part, list) else part(step)
        return step


def pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield keys and values of a collection; nothing for any other value."""
    kind = type(value)
    if kind is list:
        yield from enumerate(value)
    elif kind is dict:
        yield from value.items()
    elif kind is RegoSet:
        for member in value:
            yield member, member


def is_collection(value: Any) -> bool:
    """Return whether a value can be iterated."""
    return type(value) in (list, dict, RegoSet)


def condition(term: TermFn) -> Test:
    """Return the test of a term that must be neither false nor undefined."""

    def test(run: Run, frame: Frame) -> bool:
        value = term(run, frame)
        return value is not False and value is not UNDEFINED

    return test


def negation(term: TermFn, needed: Sequence[TermFn]) -> Test:
    """Return the test of a term that must be false or undefined.

    OPA takes some parts out of a negated literal, calls and the arguments of calls, and puts
    them in front of it; so where one of the `needed` is undefined, the body is.
    """
    parts = tuple(needed)

    def test(run: Run, frame: Frame) -> bool:
        value = term(run, frame)
        if value is False:
            return True
        if value is not UNDEFINED:
            return False
        return all(part(run, frame) is not UNDEFINED for part in parts)

    return test


def assignment(place: int, term: TermFn) -> Test:
    """Return what gives a variable its value."""

    def test(run: Run, frame: Frame) -> bool:
        frame[place] = value = term(run, frame)
        return value is not UNDEFINED

    return test


def every(domain: TermFn, key: int, value: int, body: Step) -> Test:
    """Return the test that a body has a solution for each of a collection's values."""

    def test(run: Run, frame: Frame) -> bool:
        found = domain(run, frame)
        if not is_collection(found):
            return False
        for pair in pairs(found):
            frame[key], frame[value] = pair
            run.spend()
            if not body(run, frame):
                return False
        return True

    return test


def comprehension(place: int, body: Step, *, is_set: bool) -> TermFn:
    """Return the term of a body that adds each solution to the list in a place of the frame."""

    def collect(run: Run, frame: Frame) -> Any:
        found: list[Any] = []
        frame[place] = found
        body(run, frame)
        if not is_set:
            return found
        run.walk(found)
        return RegoSet(found)

    return collect


def collecting(place: int, term: TermFn) -> Step:
    """Return the end of such a body."""

    def end(run: Run, frame: Frame) -> bool:
        value = term(run, frame)
        if value is not UNDEFINED:
            frame[place].append(value)
        return False

    return end


def _tests(tests: tuple[Test, ...], following: Step) -> Step:
    def step(run: Run, frame: Frame) -> bool:
        for test in tests:
            if not test(run, frame):
                return False
        return following(run, frame)

    return step


def _iteration(domain: TermFn, key: int, value: int, following: Step) -> Step:
    def step(run: Run, frame: Frame) -> bool:
        for pair in pairs(domain(run, frame)):
            frame[key], frame[value] = pair
            run.spend()
            if following(run, frame):
                return True
        return False

    return step
