"""The checks a second that are decided without one failure, found by steps.

Theory of operation. Everything is on meanwhile that is on later: keys change, policies are edited,
segments are packed. A step is long enough for each of these to come to pass in it, and a rate is
sustained when not one check of its step failed. From what one loop of callers gets answered, which
nobody can sustain, halving leads to the highest rate that is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

STEP_SECONDS: Final = 45.0
STEPS: Final = 6
# Nothing that is worth a soak sustains less of what callers get who wait for each answer.
_LEAST: Final = 0.3


class NothingSustained(Exception):
    """Every step had a failure."""


def highest_sustained(
    most: float, is_sustained: Callable[[float], bool], *, steps: int = STEPS
) -> float:
    """Return the highest rate tried that is sustained, of those below `most`.

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
    if not found:
        raise NothingSustained(f"not even {above:.0f} checks a second")
    return found
