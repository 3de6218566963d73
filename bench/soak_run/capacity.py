"""The checks a second that are decided without one failure, found by steps.

Theory of operation. Everything is on meanwhile that is on later: keys change, policies are edited,
segments are packed. A step is long enough for each of these to come to pass in it, and a rate is
sustained when not one check of its step failed. From what one loop of callers gets answered, which
nobody can sustain, halving leads to the highest rate that is.

A core of a shared machine is half as fast in one minute as in another. What was found in a good
minute is no capacity: so the rate is held for as many steps on end as take in bad ones as well,
and a tenth less is tried where one of them has a failure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

STEP_SECONDS: Final = 45.0
STEPS: Final = 5
HELD_STEPS: Final = 4
# Nothing that is worth a soak sustains less of what callers get who wait for each answer.
_LEAST: Final = 0.3
_LESS: Final = 0.9


class NothingSustained(Exception):
    """Every step had a failure."""


def highest_sustained(
    most: float,
    is_sustained: Callable[[float], bool],
    *,
    steps: int = STEPS,
    held_steps: int = HELD_STEPS,
) -> float:
    """Return the highest rate tried that is sustained for long, of those below `most`.

    Raises:
        NothingSustained: none of them was.
    """
    below, above = _LEAST * most, most
    found = 0.0
    for _ in range(steps):
        rate = (below + above) / 2
        if is_sustained(rate):
            found = below = rate
        else:
            above = rate
    while found > _LEAST * most:
        if all(is_sustained(found) for _ in range(held_steps)):
            return found
        found *= _LESS
    raise NothingSustained(f"not even {_LEAST * most:.0f} checks a second")
