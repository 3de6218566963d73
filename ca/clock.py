"""The wall clock as an argument: everything that needs the time is handed a `Clock`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]
"""Returns the present moment, aware, in UTC."""


def utc_now() -> datetime:
    """Return the machine's present moment in UTC."""
    return datetime.now(UTC)


# BUDGET: what NTP may step without anyone having to know.
_TOLERANCE = timedelta(seconds=5)
# BUDGET: how long a jump is shown.
_SHOWN_FOR = timedelta(hours=1)


class ClockWatch:
    """Notices when the wall clock moves otherwise than time does.

    Certificates live by the wall clock, so a jump makes them early or late at once; the monotonic
    clock tells a jump from an idle hour.
    """

    def __init__(self, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Begin to watch; `monotonic` returns seconds that only time moves."""
        self._clock = clock
        self._monotonic = monotonic
        self._wall_at, self._at = clock(), monotonic()
        self._jump: timedelta | None = None
        self._jumped_at = 0.0

    def check(self) -> timedelta | None:
        """Return by how much the clock jumped since the last check, None when it did not."""
        wall, at = self._clock(), self._monotonic()
        jump = (wall - self._wall_at) - timedelta(seconds=at - self._at)
        self._wall_at, self._at = wall, at
        if abs(jump) <= _TOLERANCE:
            return None
        self._jump, self._jumped_at = jump, at
        return jump

    @property
    def recent_jump(self) -> timedelta | None:
        """The last jump, as long as it is worth showing."""
        if self._jump is None or self._monotonic() - self._jumped_at > _SHOWN_FOR.total_seconds():
            return None
        return self._jump
