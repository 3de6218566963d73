"""The verification keys of issuers: fetched in the background, answered from memory.

Each key source (a `jwksUri`, or an issuer to be discovered) has one thread that
fetches it (`identity.key_source`). Rules this file keeps:
- `keys_for` neither waits nor does I/O; without keys it answers None, and every
  token is refused;
- `hasten` waits for a bounded time, and not longer for a crowd than for one.

Spec: reference 7.8 (sources and refresh).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable

from identity.document_fetch import DocumentFetcher
from identity.errors import KeySourceError
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule
from identity.key_discovery import Fetch, KeyPlace
from identity.key_source import KeySource, KeySourceParts, KeySourceStatus, RefreshTimes

__all__ = ["JwksCache", "KeySourceStatus", "RefreshTimes"]


class JwksCache:
    """The keys of every issuer that the loaded rules name. Thread-safe.

    Implements `identity.request_authentication.KeyLookup`; pass `hasten` as
    `on_unknown_key`.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        fetch: Fetch | None = None,
        times: RefreshTimes | None = None,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        """Start empty: no rule has keys before `prepare`.

        `clock` is monotonic seconds; `fetch` is by default a guarded one that refuses
        loopback; `fraction` draws from 0 to 1 for the jitter of the pauses.
        """
        self._parts = KeySourceParts(
            fetch=fetch or DocumentFetcher().fetch,
            clock=clock,
            fraction=fraction,
            times=times or RefreshTimes(),
        )
        self._lock = threading.Lock()
        self._sources: dict[KeyPlace, KeySource] = {}
        self._inline: dict[str, JwkSet] = {}
        self._newest_inline: dict[str, JwkSet] = {}
        self._retiring: frozenset[KeyPlace] = frozenset()
        self._is_closed = False

    def prepare(self, rules: Iterable[JwtRule], *, wait_seconds: float = 5.0) -> None:
        """Begin to fetch the keys of new rules, and wait a while for their first try.

        Call it with all rules of a snapshot before the snapshot is used. A
        source that no rule names is kept for one more call, for decisions under
        the snapshot before.

        Raises:
            KeySourceError: an inline key set is none, or the cache was closed.
        """
        rules = tuple(rules)
        inline = {
            rule.jwks: parse_jwk_set(rule.jwks, is_inline=True) for rule in rules if rule.jwks
        }
        with self._lock:
            if self._is_closed:
                raise KeySourceError("the key cache was closed")
            self._inline = self._newest_inline | inline
            self._newest_inline = inline
            started = self._start_sources(rules)
        end = time.monotonic() + wait_seconds
        for source in started:
            source.first_try.wait(max(0.0, end - time.monotonic()))

    def _start_sources(self, rules: Iterable[JwtRule]) -> list[KeySource]:
        """Start what is new, stop what two snapshots did not name; return what is not ready."""
        timeouts = {KeyPlace.of(rule): rule.timeout_seconds for rule in rules if not rule.jwks}
        unused = frozenset(self._sources) - timeouts.keys()
        for place in unused & self._retiring:
            self._sources[place].stop()
        kept = {
            place: source
            for place, source in self._sources.items()
            if place not in unused & self._retiring
        }
        self._retiring = unused
        for place, timeout_seconds in timeouts.items():
            if place in kept:
                kept[place].timeout_seconds = timeout_seconds
            elif place.url:
                kept[place] = KeySource(place, timeout_seconds, self._parts)
        self._sources = kept
        return [source for place, source in kept.items() if place in timeouts]

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the keys for a prepared rule at once, or None when there are none."""
        # Istio: inline `jwks` wins over `jwksUri` and discovery (reference 7.8).
        if rule.jwks:
            return self._inline.get(rule.jwks)
        source = self._sources.get(KeyPlace.of(rule))
        return None if source is None else source.keys()

    def hasten(self, rule: JwtRule) -> bool:
        """Follow up on a token that no key of the issuer's set verifies.

        Return whether other keys have come meanwhile, so that a second look pays.
        Waits no longer than the times' `wait_seconds`.
        """
        source = None if rule.jwks else self._sources.get(KeyPlace.of(rule))
        return source is not None and source.hasten()

    def status(self) -> tuple[KeySourceStatus, ...]:
        """Return how each remote source stands, for readiness and metrics."""
        return tuple(source.status() for source in self._sources.values())

    def close(self, *, wait_seconds: float = 1.0) -> None:
        """Stop fetching; keys already there stay readable."""
        with self._lock:
            self._is_closed = True
            sources = list(self._sources.values())
        for source in sources:
            source.stop()
        end = time.monotonic() + wait_seconds
        for source in sources:
            source.join(max(0.0, end - time.monotonic()))
