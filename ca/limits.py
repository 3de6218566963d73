"""How much one caller may ask for, and how much of its refusals is written down line by line.

Theory of operation. A caller has a bucket of tokens that fills at a steady rate; each request takes
one. Refusals of one caller get a line each up to a number a minute; what goes beyond is counted and
written as one line when the minute is over, so a hostile caller fills no disk and nothing is lost
but the single words. Callers are told apart by what was proven of them, or the kernel knows, never
by what they say; where there are too many at once, the rest share what one has.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from ca.caller import Caller, Method
from ca.refusal import Refusal

# BUDGET: callers that are told apart at a time, some 200 bytes each.
_MAX_CALLERS: Final = 50_000
# BUDGET: callers whose refusals are counted apart within one minute.
_MAX_REFUSED: Final = 1000
_WINDOW_SECONDS: Final = 60.0
# What attestors have proven of a caller, or the kernel knows of a connection.
_TELLING: Final = ("cluster", "subject", "pod_uid", "spiffe_id", "uid", "address")
# Whom the configuration or the operator vouches for.
_UNLIMITED: Final = frozenset({Method.SOCKET, Method.OPERATOR})

CallerKey = tuple[str, ...]
"""What tells callers apart."""


def key_of(caller: Caller) -> CallerKey:
    """Return what tells `caller` apart from others."""
    found = (caller.evidence.get(name, "") for name in _TELLING)
    return (caller.method.value, *found)


class CallerLimit:
    """A bucket of tokens for each caller. Any thread may ask."""

    def __init__(
        self, per_second: float, burst: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Allow `per_second` requests for ever and `burst` at once; a rate of 0 is no limit."""
        self._rate = per_second
        self._burst = float(burst)
        self._monotonic = monotonic
        self._lock = Lock()
        # What is left of each caller's tokens, as of when; who asked last stands last.
        self._buckets: OrderedDict[CallerKey, tuple[float, float]] = OrderedDict()

    def admits(self, caller: Caller) -> bool:
        """Return whether `caller` may ask once more, and take a token if so."""
        if not self._rate or caller.method in _UNLIMITED:
            return True
        key, now = key_of(caller), self._monotonic()
        with self._lock:
            tokens, at = self._buckets.pop(key, (self._burst, now))
            tokens = min(self._burst, tokens + (now - at) * self._rate)
            is_admitted = tokens >= 1
            self._buckets[key] = (tokens - 1 if is_admitted else tokens, now)
            if len(self._buckets) > _MAX_CALLERS:
                self._buckets.popitem(last=False)
        return is_admitted


@dataclass(slots=True, kw_only=True)
class HeldBack:
    """Refusals of one kind that got no line of their own."""

    caller: Caller
    reason: Refusal
    count: int = 0


@dataclass(slots=True)
class _Minute:
    """The refusals of one caller in its minute; `lines` got one each."""

    began: float
    lines: int = 0
    held_back: dict[Refusal, HeldBack] = field(default_factory=dict)


class RefusalLines:
    """Says which refusals are written line by line. Any thread may ask."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Give one caller `per_minute` lines; 0 is no limit."""
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._lock = Lock()
        self._minutes: dict[CallerKey, _Minute] = {}

    def admits(self, caller: Caller, reason: Refusal) -> bool:
        """Return whether this refusal gets a line; otherwise it is counted."""
        if not self._per_minute:
            return True
        with self._lock:
            key = key_of(caller)
            if key not in self._minutes and len(self._minutes) >= _MAX_REFUSED:
                key, caller = (), Caller(method=caller.method, evidence={"callers": "many"})
            minute = self._minutes.setdefault(key, _Minute(self._monotonic()))
            if minute.lines < self._per_minute:
                minute.lines += 1
                return True
            held = minute.held_back.setdefault(reason, HeldBack(caller=caller, reason=reason))
            held.count += 1
            return False

    def take_due(self, *, is_end: bool = False) -> tuple[HeldBack, ...]:
        """Return, and forget, what was held back in minutes that are over, at the end in all."""
        now = self._monotonic()
        with self._lock:
            over = [
                key
                for key, minute in self._minutes.items()
                if is_end or now - minute.began >= _WINDOW_SECONDS
            ]
            minutes: Mapping[CallerKey, _Minute] = {key: self._minutes.pop(key) for key in over}
        return tuple(held for minute in minutes.values() for held in minute.held_back.values())
