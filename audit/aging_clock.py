"""What time it is for what is deleted by its age: a clock that is wrong deletes nothing at once.

What is deleted stays deleted when a clock is set right again. Clocks are most often wrong when a
machine starts, until it has asked what time it is. So the time of a process is
- never later than its start and the time since then by a clock that nobody sets, and
- in its first hour, not much later than the record itself shows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from audit.chain import list_segments, parse_line, read_raw_lines
from audit.errors import AuditError
from audit.reader import time_of

_DOUBTED_SECONDS: Final = 3600.0
# BUDGET: a record that is quiet for a day, or a server that is off for one, is nothing unusual.
_QUIET_SECONDS: Final = 86_400.0
_LAST: Final = 16  # BUDGET: lines at an end that are looked at; a torn one is the last


class AgingClock:
    """Tells the time (epoch seconds) by which a record ages, as far as it is to be believed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin to count; `clock` is one that may be set, or wrong."""
        self._clock = clock
        self._began = clock(), time.monotonic()

    def told(self) -> float:
        """Return what the clock says, which is how all else is dated."""
        return self._clock()

    def now(self, stood_at: Callable[[], float | None]) -> float:
        """Return the time for a log.

        `stood_at` tells when its newest line was written, of those that were there before this
        process wrote any; None: there is none. It is not asked where that does not matter.
        """
        wall, steady = self._began
        elapsed = time.monotonic() - steady
        now = min(self._clock(), wall + elapsed)
        shown = stood_at() if elapsed < _DOUBTED_SECONDS else None
        return now if shown is None else min(now, shown + _QUIET_SECONDS + elapsed)


def newest_time(folder: Path) -> float | None:
    """Return when the newest line of a log was written that tells it; None: there is no segment.

    Of segments that nothing can be read of it is 0, by which nothing ages. WHY not the newest line
    alone: it is torn where the power failed, and then the clock is most often wrong.
    """
    try:
        segments = list_segments(folder)
    except OSError:
        return None  # there is no folder, or the writer says what is wrong with it
    for _, path in reversed(segments):
        with suppress(OSError, AuditError):
            for raw in reversed(deque(read_raw_lines(path), maxlen=_LAST)):
                with suppress(AuditError, ValueError):
                    at = time_of(parse_line(raw).document)
                    return datetime.fromisoformat(at).timestamp()
    return 0.0 if segments else None
