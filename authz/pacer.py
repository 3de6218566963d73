"""Work beside the traffic: a little, then a rest, so that checks do not feel it.

A thread that computes holds the interpreter until it is told to let go, and whoever answers
a check waits for it. So a build that runs beside the traffic takes a share of the time and
no more; its own CPU time is what counts, on a busy machine too. While others in the process
have next to no work, there is nobody to rest for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

# What others use while nobody asks: a look at a file, a gauge, a question about metrics now and
# then. As a share of one core.
_QUIET: Final = 0.1
# Over so many rests in a row it counts, but for one, then so many slices of work go without one.
_QUIET_RESTS, _UNDISTURBED = 5, 40

# A piece of work that took longer than a slice is rested for, up to so many slices.
_MOST_SLICES = 10
# How long after the last piece of work what others did then tells nothing of now.
_PAST_SECONDS = 1.0
# How long a rest is, in slices, that only looks whether still nobody works.
_LOOK_SLICES = 3


def time_of_others() -> float:
    """Return the CPU seconds that the other threads of the process took so far."""
    return time.process_time() - time.thread_time()


class Pacer:
    """Rests whenever a slice of work is done, seldom while nobody works. For one thread at a time.

    Whether somebody works shows in the rests, when everything is theirs: while this thread
    works, they may be kept from it.
    """

    def __init__(
        self,
        *,
        share: float = 0.1,
        slice_seconds: float = 0.001,
        clock: Callable[[], float] = time.thread_time,
        wall: Callable[[], float] = time.monotonic,
        others: Callable[[], float] = time_of_others,
        rest: Callable[[float], object] | None = None,
    ) -> None:
        """Work for `share` of the time, in slices of so many seconds of CPU."""
        self._slice = slice_seconds
        self._rest_for_work = 1 / share - 1
        self._clock = clock
        self._wall = wall
        self._others = others
        self._rest = rest or threading.Event().wait
        self._thread = 0
        self._until = self._not_before = 0.0
        # What others took of each of the last rests, as a share of one core.
        self._used: deque[float] = deque(maxlen=_QUIET_RESTS)
        self._undisturbed = 0

    def __call__(self) -> None:
        """Rest, if it is time to."""
        # WHY: a thread's CPU time tells nothing of another's, and whoever builds may change.
        if self._thread != threading.get_ident():
            self._thread = threading.get_ident()
            self._begin_anew()
        # WHY: the system is asked for a thread's CPU time, and not for the time of day. Nobody
        # takes more of the former than of the latter.
        now = self._wall()
        if now < self._not_before:
            return
        if now > self._not_before + _PAST_SECONDS:
            self._begin_anew()
            return
        left = self._until - self._clock()
        if left > 0:
            self._not_before = self._wall() + left
            return
        if self._undisturbed:
            self._undisturbed -= 1
        else:
            self._take_a_rest(min(self._slice - left, self._slice * _MOST_SLICES))
        self._begin_slice()

    def _begin_anew(self) -> None:
        self._used.clear()
        self._undisturbed = 0
        self._begin_slice()

    def _begin_slice(self) -> None:
        self._until = self._clock() + self._slice
        self._not_before = self._wall() + self._slice

    def _take_a_rest(self, worked: float) -> None:
        """Rest for so many seconds of work."""
        seconds = worked * self._rest_for_work
        if self._is_quiet():
            seconds = min(seconds, self._slice * _LOOK_SLICES)
        before = self._others()
        self._rest(seconds)
        self._used.append((self._others() - before) / seconds)
        if self._is_quiet():
            self._undisturbed = _UNDISTURBED

    def _is_quiet(self) -> bool:
        """Whether others took next to nothing of the last rests."""
        # WHY without the largest: a question about metrics takes a rest for itself, and is nobody's
        # traffic.
        counted = sorted(self._used)[:-1]
        return len(self._used) == _QUIET_RESTS and sum(counted) < len(counted) * _QUIET
