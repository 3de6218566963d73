"""The trust bundles of every configured trust domain, kept fresh in the background.

Theory of operation. One thread visits each source when it is due: files every few
seconds, endpoints as their refresh hint says. Rules this file keeps:
- `current` neither waits nor does I/O: it returns one immutable set, and the very same
  one while nothing changes;
- a source that fails leaves its last good bundle in place, and is tried again after a
  wait that doubles up to its refresh interval;
- a fetched copy that grew too old is no longer believed, but still serves to verify
  the endpoint that would bring a new one;
- a fetched bundle whose sequence number went back is not taken;
- a bundle without keys is taken: it says that nobody of the trust domain is trusted.

Spec: SPIFFE Federation §4 (managing bundles), §6.2 (polling).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from identity.bundle_source import BundleSource
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleError, BundleSet, TrustBundle

# Waits are drawn between these shares of their length, so that a fleet does not fetch at once.
_JITTER: Final = (0.9, 1.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchTimes:
    """How often bundles are looked at, in seconds.

    Federation §4.1: without a hint "five minutes is recommended". The hint is bounded by
    `shortest_seconds` and `longest_seconds`.
    """

    default_seconds: float = 300.0
    shortest_seconds: float = 30.0
    longest_seconds: float = 24 * 3600.0
    first_retry_seconds: float = 5.0
    file_seconds: float = 5.0
    max_age_seconds: float = 7 * 24 * 3600.0

    def interval_of(self, source: BundleSource, bundle: TrustBundle | None) -> float:
        """Return how long a good copy of this source is kept before the next look."""
        if not source.is_remote:
            return self.file_seconds
        hint = None if bundle is None else bundle.refresh_hint_seconds
        wanted = self.default_seconds if hint is None else hint
        # WHY last: a publisher may hint at more seconds than a float can hold.
        return float(min(max(wanted, self.shortest_seconds), self.longest_seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStatus:
    """How the bundle of one trust domain stands.

    `fetched_at` is None until the source was first read with success; `last_error` is
    empty after a success.
    """

    trust_domain: TrustDomain
    source: str
    is_ready: bool
    fetched_at: datetime | None
    sequence: int | None
    refresh_seconds: float
    x509_authorities: int
    jwt_authorities: int
    fetches: int
    failures: int
    last_error: str
    notes: tuple[str, ...]


class _Watched:
    """One source with its last good bundle; only one thread at a time changes it."""

    def __init__(self, source: BundleSource, now: float) -> None:
        """Begin with the bundle the operator gave, if any; it does not age."""
        self.source = source
        self.bundle = source.given
        self.due = now
        self.loaded: float | None = None
        self.fetched_at: datetime | None = None
        self.retry_seconds = 0.0
        self.fetches = 0
        self.failures = 0
        self.last_error = ""


class BundleWatch:
    """Keeps the bundles of all sources. Thread-safe."""

    def __init__(
        self,
        sources: Iterable[BundleSource],
        *,
        times: WatchTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        draw: Callable[[float, float], float] = random.uniform,
        on_change: Callable[[BundleStatus], None] | None = None,
    ) -> None:
        """Read what needs no network.

        `on_change` hears of every new bundle and every new error, from the watching thread.

        Raises:
            BundleError: a file cannot be read, or two sources stand for one trust domain.
        """
        self._times = times or WatchTimes()
        self._clock = clock
        self._wall_clock = wall_clock
        self._draw = draw
        self._on_change = on_change
        self._stop = threading.Event()
        self._first_round = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched: dict[TrustDomain, _Watched] = {}
        for source in sources:
            # Federation §4.2: bundles "MUST NOT be merged", so there is one source for each.
            if source.trust_domain in self._watched:
                raise BundleError(f"`{source.trust_domain}` has two sources of its bundle")
            self._watched[source.trust_domain] = _Watched(source, clock())
        for watched in self._watched.values():
            if not watched.source.is_remote:
                self._keep(watched, watched.source.load(BundleSet()))
        self._current = BundleSet()
        self._publish()

    def start(self, *, wait_seconds: float = 5.0) -> None:
        """Begin to watch, and wait a while for the first round of fetches."""
        if self._thread is None and self._watched:
            self._thread = threading.Thread(
                target=self._keep_fresh, name="trust bundles", daemon=True
            )
            self._thread.start()
            self._first_round.wait(wait_seconds)

    def stop(self, *, wait_seconds: float = 1.0) -> None:
        """End the watching after the fetch that may be under way; the bundles stay readable."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(wait_seconds)

    def current(self) -> BundleSet:
        """Return the bundles to decide by, at once."""
        return self._current

    def status(self) -> tuple[BundleStatus, ...]:
        """Return how each trust domain's bundle stands, for readiness and metrics."""
        return tuple(self._status_of(watched) for watched in self._watched.values())

    def _keep_fresh(self) -> None:
        """Visit what is due, publish, wait, until stopped."""
        while not self._stop.is_set():
            for watched in self._watched.values():
                if watched.due <= self._clock() and not self._stop.is_set():
                    self._visit(watched)
                    self._publish()
            self._first_round.set()
            self._stop.wait(self._seconds_to_next())

    def _visit(self, watched: _Watched) -> None:
        """Read one source once, and set when it is due again."""
        before, error_before = watched.bundle, watched.last_error
        watched.fetches += 1
        try:
            bundle = watched.source.load(self._held())
            # §4.2: what operators "locally update ... is considered the latest".
            if watched.source.is_remote:
                _check_sequence(watched.bundle, bundle)
            self._keep(watched, bundle)
        except BundleError as exc:
            self._note_failure(watched, str(exc))
        # WHY every exception: were this thread to die, no bundle would ever change again.
        except Exception as exc:
            self._note_failure(watched, f"`{watched.source.name}` failed: {type(exc).__name__}")
        if watched.bundle != before or watched.last_error != error_before:
            self._tell(watched)

    def _keep(self, watched: _Watched, bundle: TrustBundle) -> None:
        """Take a bundle for the last good one."""
        # WHY the old value where nothing changed: verdicts are remembered for as long as it lasts.
        if bundle != watched.bundle:
            watched.bundle = bundle
        watched.loaded = self._clock()
        watched.fetched_at = datetime.fromtimestamp(self._wall_clock(), UTC)
        watched.last_error = ""
        watched.retry_seconds = 0.0
        watched.due = self._clock() + self._spread(self._times.interval_of(watched.source, bundle))

    def _note_failure(self, watched: _Watched, why: str) -> None:
        """Keep why the source failed, and wait twice as long as the time before."""
        watched.failures += 1
        watched.last_error = why
        # §6.2: "retry at the next polling interval, rather than immediately or aggressively".
        longest = self._times.interval_of(watched.source, watched.bundle)
        wanted = max(2 * watched.retry_seconds, self._times.first_retry_seconds)
        watched.retry_seconds = min(wanted, longest)
        watched.due = self._clock() + self._spread(watched.retry_seconds)

    def _tell(self, watched: _Watched) -> None:
        """Tell the listener; what it raises must not end the watching."""
        if self._on_change is None:
            return
        try:
            self._on_change(self._status_of(watched))
        # WHY every exception: as above; the listener has its own log.
        except Exception as exc:
            watched.last_error = f"the listener failed: {type(exc).__name__}"

    def _spread(self, seconds: float) -> float:
        """Return a wait of about that length."""
        return seconds * self._draw(*_JITTER)

    def _held(self) -> BundleSet:
        """Return every bundle there is, however old."""
        return BundleSet.of(*(each.bundle for each in self._watched.values() if each.bundle))

    def _is_believed(self, watched: _Watched) -> bool:
        """Return whether there is a bundle that is not too old."""
        if watched.bundle is None:
            return False
        if not watched.source.is_remote or watched.loaded is None:
            return True
        return self._clock() - watched.loaded <= self._times.max_age_seconds

    def _publish(self) -> None:
        """Make the set of believed bundles the current one."""
        believed = (each for each in self._watched.values() if self._is_believed(each))
        fresh = BundleSet.of(*(each.bundle for each in believed if each.bundle))
        if fresh != self._current:
            self._current = fresh

    def _seconds_to_next(self) -> float:
        """Return how long nothing is due, and no copy becomes too old."""
        now, moments = self._clock(), [each.due for each in self._watched.values()]
        for each in self._watched.values():
            if each.source.is_remote and each.loaded is not None:
                end = each.loaded + self._times.max_age_seconds
                moments += [end] if end > now else []
        # WHY a most: whoever wants a file read once may say so by any number.
        return min(max(0.01, min(moments) - now), threading.TIMEOUT_MAX)

    def _status_of(self, watched: _Watched) -> BundleStatus:
        """Return how one source stands."""
        bundle = watched.bundle
        return BundleStatus(
            trust_domain=watched.source.trust_domain,
            source=watched.source.name,
            is_ready=self._is_believed(watched),
            fetched_at=watched.fetched_at,
            sequence=None if bundle is None else bundle.sequence,
            refresh_seconds=self._times.interval_of(watched.source, bundle),
            x509_authorities=0 if bundle is None else len(bundle.x509_authorities),
            jwt_authorities=0 if bundle is None else len(bundle.jwt_authorities),
            fetches=watched.fetches,
            failures=watched.failures,
            last_error=watched.last_error,
            notes=() if bundle is None else bundle.notes,
        )


def _check_sequence(before: TrustBundle | None, after: TrustBundle) -> None:
    """Refuse a bundle that is older than the one before (Bundle §4.1.1, Federation §4.2).

    "The sequence number ... SHOULD be used when comparing the freshness": without one,
    what was fetched last is the latest.
    """
    if before is None or before.sequence is None or after.sequence is None:
        return
    if after.sequence < before.sequence:
        why = f"`spiffe_sequence` went back from {before.sequence} to {after.sequence}"
        raise BundleError(why)
