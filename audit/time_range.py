"""A range of time, as people write it: `2026-11-21T12:00:00Z`, `2026-11-21`, `24h`, `7d`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from audit.errors import AuditQueryError

_AGO = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class TimeRange:
    """From `since` (included) to `until` (excluded), as texts of the record; None: open."""

    since: str | None = None
    until: str | None = None

    def __contains__(self, at: str) -> bool:
        """Whether a time of the record is in the range: its texts sort as times do."""
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    def __str__(self) -> str:
        """Return the range for people."""
        match self.since, self.until:
            case None, None:
                return "everything"
            case since, None:
                return f"since {since}"
            case None, until:
                return f"before {until}"
            case since, until:
                return f"{since} to {until}"


def parse_range(since: str | None, until: str | None, *, now: datetime) -> TimeRange:
    """Return the range between two texts; either may be None. `now` is aware.

    Raises:
        AuditQueryError: a text is no time, or the range ends before it begins.
    """
    found = TimeRange(
        None if since is None else format_time(parse_time(since, now=now)),
        None if until is None else format_time(parse_time(until, now=now)),
    )
    if found.since is not None and found.until is not None and found.since > found.until:
        raise AuditQueryError(f"the range ends before it begins: `{since}` to `{until}`")
    return found


def parse_time(text: str, *, now: datetime) -> datetime:
    """Return an ISO 8601 time (UTC when it names no zone) or a time ago (`90m`, `24h`, `7d`).

    Raises:
        AuditQueryError: the text is neither.
    """
    try:
        if ago := _AGO.fullmatch(text):
            return now.astimezone(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise AuditQueryError(
            f"`{text}` is no time: expected `2026-11-21T12:00:00Z`, `2026-11-21` or `24h`"
        ) from exc


def format_time(at: datetime) -> str:
    """Return an aware time as a text of the record."""
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
