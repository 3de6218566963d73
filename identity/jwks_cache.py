"""The verification keys of issuers: fetched in the background, answered from memory.

Theory of operation. Each key source (a `jwksUri`, or an issuer to be discovered)
has one thread that fetches, waits, and fetches again. The thread is the only one
that fetches this source, so there is never more than one fetch under way.
Rules this file keeps:
- `keys_for` neither waits nor does I/O; without keys it answers None, and every
  token is refused;
- a failed fetch leaves the last good keys in place, until they are too old;
- a token with an unknown key may hasten a fetch, but not more often than the floor.

Spec: OpenID Connect Discovery 1.0 §4; reference 7.8 (sources and refresh).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from authlib.oidc.discovery import OpenIDProviderMetadata

from identity.document_fetch import fetch_document
from identity.errors import KeySourceError
from identity.jose import parse_json_object
from identity.jwks import JwkSet, parse_jwk_set
from identity.jwt_rule import JwtRule

_DISCOVERY_PATH: Final = "/.well-known/openid-configuration"


class Fetch(Protocol):
    """Fetches one document; raises KeySourceError."""

    def __call__(self, url: str, *, timeout_seconds: float) -> bytes:
        """Return the body that the URL answers with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshTimes:
    """How often keys are fetched, in seconds; the defaults are Istio's where it has any."""

    refresh_seconds: float = 20 * 60
    first_retry_seconds: float = 1.0
    last_retry_seconds: float = 60.0
    early_floor_seconds: float = 30.0
    max_age_seconds: float = 7 * 24 * 3600


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


@dataclass(frozen=True, slots=True)
class _KeyPlace:
    """Where keys come from: a key set's URL, or an issuer whose metadata names it."""

    url: str
    is_issuer: bool

    @classmethod
    def of(cls, rule: JwtRule) -> _KeyPlace:
        """Return the place of a rule without inline keys."""
        return cls(rule.jwks_uri, False) if rule.jwks_uri else cls(rule.issuer, True)

    def __str__(self) -> str:
        """Return the place as a person names it."""
        return f"issuer {self.url}" if self.is_issuer else self.url


def _load_keys(place: _KeyPlace, fetch: Fetch, timeout_seconds: float) -> JwkSet:
    """Return the keys that the place publishes now."""
    url = place.url
    if place.is_issuer:
        url = _discover(place.url, fetch, timeout_seconds)
    return parse_jwk_set(fetch(url, timeout_seconds=timeout_seconds), is_inline=False)


def _discover(issuer: str, fetch: Fetch, timeout_seconds: float) -> str:
    """Return the `jwks_uri` of an issuer's metadata."""
    # OpenID Connect Discovery §4: "any terminating / MUST be removed before appending".
    raw = fetch(issuer.removesuffix("/") + _DISCOVERY_PATH, timeout_seconds=timeout_seconds)
    try:
        metadata = OpenIDProviderMetadata(parse_json_object(raw))
    except ValueError as exc:
        raise KeySourceError(f"the metadata of `{issuer}` is not a JSON object") from exc
    # §4.3: "The issuer value returned MUST be identical to the Issuer URL".
    if metadata.get("issuer") != issuer:
        raise KeySourceError(f"the metadata of `{issuer}` is that of another issuer")
    jwks_uri = metadata.get("jwks_uri")
    if not isinstance(jwks_uri, str) or not jwks_uri:
        raise KeySourceError(f"the metadata of `{issuer}` names no `jwks_uri`")
    # WHY only for https: authlib knows no issuers on plain http, which a mesh may have inside.
    if issuer.startswith("https:"):
        try:
            metadata.validate_issuer()
            metadata.validate_jwks_uri()
        except ValueError as exc:
            raise KeySourceError(f"the metadata of `{issuer}` is not valid") from exc
    return jwks_uri


class _KeySource:
    """One place of keys with the thread that keeps its copy fresh."""

    def __init__(
        self,
        place: _KeyPlace,
        timeout_seconds: float,
        *,
        fetch: Fetch,
        clock: Callable[[], float],
        times: RefreshTimes,
    ) -> None:
        """Start fetching."""
        self._place = place
        self._timeout_seconds = timeout_seconds
        self._fetch = fetch
        self._clock = clock
        self._times = times
        # INVARIANT: replaced whole, never changed, so readers need no lock.
        self._copy: tuple[JwkSet, float] | None = None
        self._last_error = ""
        self._fetches = 0
        self._failures = 0
        self._started_at = clock()
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
        if copy is None or self._clock() - copy[1] > self._times.max_age_seconds:
            return None
        return copy[0]

    def hasten(self) -> None:
        """Fetch soon, unless the last fetch began less than the floor ago."""
        if self._clock() - self._started_at >= self._times.early_floor_seconds:
            self._wake.set()

    def stop(self) -> None:
        """End the thread after the fetch that may be under way."""
        self._stopped = True
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
            age_seconds=None if copy is None else self._clock() - copy[1],
            fetches=self._fetches,
            failures=self._failures,
            last_error=self._last_error,
            notes=() if keys is None else keys.notes,
        )

    def _keep_fresh(self) -> None:
        """Fetch, wait, and fetch again until stopped."""
        retry_seconds = self._times.first_retry_seconds
        while not self._stopped:
            if self._refresh():
                wait_seconds = self._times.refresh_seconds
                retry_seconds = self._times.first_retry_seconds
            else:
                wait_seconds = retry_seconds
                retry_seconds = min(2 * retry_seconds, self._times.last_retry_seconds)
            self.first_try.set()
            self._wake.wait(wait_seconds)
            self._wake.clear()

    def _refresh(self) -> bool:
        """Fetch once and return whether there are new keys."""
        self._started_at = self._clock()
        self._fetches += 1
        try:
            keys = _load_keys(self._place, self._fetch, self._timeout_seconds)
        except KeySourceError as exc:
            return self._note_failure(str(exc))
        # WHY every exception: were this thread to die, keys would silently grow old.
        except Exception as exc:
            return self._note_failure(f"`{self._place}` failed: {type(exc).__name__}")
        self._copy = (keys, self._clock())
        self._last_error = ""
        return True

    def _note_failure(self, why: str) -> bool:
        """Keep why the fetch failed, and return False."""
        self._failures += 1
        self._last_error = why
        return False


class JwksCache:
    """The keys of every issuer that the loaded rules name. Thread-safe.

    Implements `identity.request_authentication.KeyLookup`; pass `hasten` as
    `on_unknown_key`.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        fetch: Fetch = fetch_document,
        times: RefreshTimes | None = None,
    ) -> None:
        """Start empty: no rule has keys before `prepare`. `clock` is monotonic seconds."""
        self._clock = clock
        self._fetch = fetch
        self._times = times or RefreshTimes()
        self._lock = threading.Lock()
        self._sources: dict[_KeyPlace, _KeySource] = {}
        self._inline: dict[str, JwkSet] = {}
        self._newest_inline: dict[str, JwkSet] = {}
        self._retiring: frozenset[_KeyPlace] = frozenset()
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

    def _start_sources(self, rules: Iterable[JwtRule]) -> list[_KeySource]:
        """Start what is new, stop what two snapshots did not name; return what is not ready."""
        timeouts = {_KeyPlace.of(rule): rule.timeout_seconds for rule in rules if not rule.jwks}
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
            if place.url and place not in kept:
                kept[place] = _KeySource(
                    place,
                    timeout_seconds,
                    fetch=self._fetch,
                    clock=self._clock,
                    times=self._times,
                )
        self._sources = kept
        return [source for place, source in kept.items() if place in timeouts]

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return the keys for a prepared rule at once, or None when there are none."""
        # Istio: inline `jwks` wins over `jwksUri` and discovery (reference 7.8).
        if rule.jwks:
            return self._inline.get(rule.jwks)
        source = self._sources.get(_KeyPlace.of(rule))
        return None if source is None else source.keys()

    def hasten(self, rule: JwtRule) -> None:
        """Follow up on a token whose key the issuer's set did not hold."""
        source = None if rule.jwks else self._sources.get(_KeyPlace.of(rule))
        if source is not None:
            source.hasten()

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
