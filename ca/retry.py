"""When what failed is tried again, and whether that it failed is news.

For what is looked at with every request: without it each of them would try again, wait for what
does not answer, and log the same line.
"""

from __future__ import annotations

from datetime import datetime, timedelta


class Retry:
    """One thing that may fail; the caller keeps threads apart.

    `why` says why the last try failed, empty where it did not.
    """

    __slots__ = ("_failed_at", "_pause", "why")

    def __init__(self, pause: timedelta) -> None:
        """Try again no sooner than `pause` after a failure."""
        self._pause = pause
        self._failed_at: datetime | None = None
        self.why = ""

    def is_due(self, now: datetime) -> bool:
        """Return whether to try; a clock that was set back is no reason to wait for long."""
        failed_at = self._failed_at
        return failed_at is None or not timedelta(0) <= now - failed_at < self._pause

    def note_failure(self, why: str, now: datetime) -> bool:
        """Keep why a try failed, and return whether that is news."""
        is_news = why != self.why
        self.why, self._failed_at = why, now
        return is_news

    def note_success(self) -> None:
        """Forget failures."""
        self.why, self._failed_at = "", None
