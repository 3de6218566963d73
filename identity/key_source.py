"""One place of keys, with the thread that keeps its copy fresh.

Theory of operation. The thread is the only one that fetches this place, so there is
never more than one fetch under way, however many requests would like one. It
fetches, waits, and fetches again: ahead of the copy's age while all is well, after
a pause that doubles while it is not, each pause shortened by a random part so that
many authorizers do not ask at once. Rules this file keeps:
- `keys` neither waits nor does I/O;
- a failed fetch leaves the last good keys in place, until they are too old;
- `hasten` begins at most one fetch in `early_floor_seconds`, and requests wait for
  that fetch for `wait_seconds` after its beginning, all of them for the same one.

Spec: RFC 9111 §4.2 (freshness); reference 7.8 (refresh).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from identity.errors import KeySourceError
from identity.jwks import JwkSet
from identity.key_discovery import Fetch, KeyPlace, fetch_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshTimes:
    """How often keys are fetched, in seconds; the defaults are Istio's where it has any.

    `refresh_seconds` is the longest pause after a good fetch; a shorter `max-age` of
    the issuer counts, but not below `early_floor_seconds`. `wait_seconds` is how long
    a request may wait for a fetch that its unknown key began. `jitter` is the largest
    part by which a pause is shortened.
    """

    refresh_seconds: float = 20 * 60
    first_retry_seconds: float = 1.0
    last_retry_seconds: float = 60.0
    early_floor_seconds: float = 30.0
    max_age_seconds: float = 7 * 24 * 3600
    wait_seconds: float = 0.0
    jitter: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySourceStatus:
    """How one key source stands; `age_seconds` is None before the first good fetch."""

    source: str
    is_ready: bool
    key_count: int
    age_seconds: float | None
    fetches: int
    failures: int
    last_error: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySourceParts:
    """What every key source of one cache shares: `clock` is monotonic seconds, `fraction` 0..1."""

    fetch: Fetch
    clock: Callable[[], float] = time.monotonic
    fraction: Callable[[], float] = random.random
    times: RefreshTimes = RefreshTimes()


@dataclass(frozen=True, slots=True)
class _Copy:
    """Keys as they were fetched, when they were asked for, and how long they are called fresh."""

    keys: JwkSet
    fetched_at: float
    max_age_seconds: float | None


class KeySource:
    """One place of keys with the thread that keeps its copy fresh."""

    def __init__(self, place: KeyPlace, timeout_seconds: float, parts: KeySourceParts) -> None:
        """Start fetching; `timeout_seconds` is for each document, and may be set anew."""
        self._place = place
        self.timeout_seconds = timeout_seconds
        self._parts = parts
        # INVARIANT: replaced whole, never changed, so readers need no lock.
        self._copy: _Copy | None = None
        self._last_error = ""
        self._fetches = 0
        self._failures = 0
        self._state = threading.Condition()
        # Guarded by `_state`: when the last fetch began by the parts' clock, which fetch is
        # hastened, until when requests wait for it (real time), and how many fetches ended.
        self._began_at = parts.clock()
        self._hastened = 0
        self._wait_until = 0.0
        self._ended = 0
        self._wake = threading.Event()
        self._stopped = False
        self.first_try = threading.Event()
        self._thread = threading.Thread(
            target=self._keep_fresh, name=f"keys of {place}", daemon=True
        )
        self._thread.start()

    def keys(self) -> JwkSet | None:
        """Return the last good keys, or None when there are none or they are too old."""
        copy = self._copy
        parts = self._parts
        if copy is None or parts.clock() - copy.fetched_at > parts.times.max_age_seconds:
            return None
        return copy.keys

    def hasten(self) -> bool:
        """Fetch soon, wait a bounded while for it, and return whether other keys have come.

        Nothing is fetched when the last fetch began less than the floor ago, and nobody
        waits longer than `wait_seconds` from the beginning of the hastened fetch.
        """
        before = self._copy
        times = self._parts.times
        with self._state:
            now = self._parts.clock()
            if now - self._began_at >= times.early_floor_seconds:
                # INVARIANT: the try is taken here, so that a crowd takes one and not many.
                self._began_at = now
                self._hastened = self._fetches + 1
                self._wait_until = time.monotonic() + times.wait_seconds
                self._wake.set()
            mine = self._hastened
            while self._ended < mine and not self._stopped:
                left = self._wait_until - time.monotonic()
                if left <= 0:
                    break
                self._state.wait(left)
        after = self._copy
        return after is not None and (before is None or after.keys.revision != before.keys.revision)

    def stop(self) -> None:
        """End the thread after the fetch that may be under way."""
        with self._state:
            self._stopped = True
            self._state.notify_all()
        self._wake.set()

    def join(self, timeout_seconds: float) -> None:
        """Wait for the end of the thread."""
        self._thread.join(timeout_seconds)

    def status(self) -> KeySourceStatus:
        """Return how the source stands."""
        copy = self._copy
        keys = self.keys()
        return KeySourceStatus(
            source=str(self._place),
            is_ready=keys is not None,
            key_count=0 if keys is None else len(keys.keys),
            age_seconds=None if copy is None else self._parts.clock() - copy.fetched_at,
            fetches=self._fetches,
            failures=self._failures,
            last_error=self._last_error,
            notes=() if keys is None else keys.notes,
        )

    def _keep_fresh(self) -> None:
        """Fetch, wait, and fetch again until stopped."""
        times = self._parts.times
        retry_seconds = times.first_retry_seconds
        while not self._stopped:
            if self._refresh():
                pause = self._fresh_seconds()
                retry_seconds = times.first_retry_seconds
            else:
                pause = retry_seconds
                retry_seconds = min(2 * retry_seconds, times.last_retry_seconds)
            self.first_try.set()
            pause *= 1 - times.jitter * self._parts.fraction()
            # WHY a most: whoever wants no refresh may say so by any number.
            self._wake.wait(min(pause, threading.TIMEOUT_MAX))
            self._wake.clear()

    def _fresh_seconds(self) -> float:
        """Return the pause after a good fetch: ahead of what the issuer calls fresh."""
        times = self._parts.times
        copy = self._copy
        # RFC 9111 §4.2.1: `max-age` is the freshness lifetime. Zero says "ask every time",
        # which no verifier does.
        if copy is None or not copy.max_age_seconds:
            return times.refresh_seconds
        ahead = 0.8 * copy.max_age_seconds
        return min(times.refresh_seconds, max(times.early_floor_seconds, ahead))

    def _refresh(self) -> bool:
        """Fetch once and return whether there are keys that are new or good still."""
        with self._state:
            self._began_at = self._parts.clock()
            self._fetches += 1
        try:
            return self._fetch()
        finally:
            with self._state:
                self._ended = self._fetches
                self._state.notify_all()

    def _fetch(self) -> bool:
        """Fetch, keep what came, or keep why nothing did."""
        # RFC 9111 §4.2.3: an answer is as old as its question at most.
        asked_at = self._parts.clock()
        try:
            found = fetch_keys(self._place, self._parts.fetch, self.timeout_seconds)
        except KeySourceError as exc:
            return self._note_failure(str(exc))
        # WHY every exception: were this thread to die, keys would silently grow old.
        except Exception as exc:
            return self._note_failure(f"`{self._place}` failed: {type(exc).__name__}")
        self._copy = _Copy(found.keys, asked_at, found.max_age_seconds)
        self._last_error = ""
        return True

    def _note_failure(self, why: str) -> bool:
        """Keep why the fetch failed, and return False."""
        self._failures += 1
        self._last_error = why
        return False
