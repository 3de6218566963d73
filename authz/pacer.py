"""Work beside the traffic: a little, then a rest, so that checks do not feel it.

A thread that computes holds the interpreter until it is told to let go, and whoever answers
a check waits for it. So a build that runs beside the traffic takes a share of the time and
no more; its own CPU time is what counts, on a busy machine too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pacer:
    """Rests whenever a slice of work is done. For one thread."""

    def __init__(
        self,
        *,
        share: float = 0.25,
        slice_seconds: float = 0.001,
        clock: Callable[[], float] = time.thread_time,
        rest: Callable[[float], object] | None = None,
    ) -> None:
        """Work for `share` of the time, in slices of so many seconds of CPU."""
        self._slice = slice_seconds
        self._pause = slice_seconds * (1 / share - 1)
        self._clock = clock
        self._rest = rest or threading.Event().wait
        self._until = clock() + slice_seconds

    def __call__(self) -> None:
        """Rest, if it is time to."""
        if self._clock() >= self._until:
            self._rest(self._pause)
            self._until = self._clock() + self._slice
