"""Verified tokens, remembered by the digest of the whole token.

Theory of operation. The signature of a token is checked once; after that the same
bytes are known by their SHA-256. Rules this file keeps:
- the whole token is digested, signature included: nothing else is ever recognized;
- what is remembered is bound to everything the verdict came from: the rule's issuer
  and audiences, where its keys come from, and the revision of the key set, so that a set
  without the key, or a rule with another audience, meets a stranger;
- of the key sets of one source only the newest that a token was verified by counts, so that
  keys which change often do not fill the memory with the same token again and again;
- the token's times are held against the clock at every use;
- only tokens that were verified are remembered, in bounded number and bytes, and the
  ones used longest ago are forgotten first. Refusals are never remembered, so that
  no flood of them drives out what is good;
- a token that has come to its end is forgotten soon after, used or not: nobody asks for
  it again. Each that comes looks at a few of the others in turn, so that no check pays for
  thousands that end at the same moment.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from identity.jwt_verify import (
    CLOCK_SKEW_SECONDS,
    Verdict,
    VerifiedToken,
    Verify,
    is_in_time,
    verify_token,
)

# The token's digest; the rule's issuer, audiences, key set's address and inline key set.
_Key = tuple[bytes, str, tuple[str, ...], str, str]
# BUDGET: microseconds; those that ended and were not come to yet are a seventh of the others.
_LOOKED_AT: Final = 8


@dataclass(slots=True, eq=False)
class _Place:
    """Where a token stands in the round, until when it may be used, and whether it has left."""

    key: _Key
    ends_at: float
    has_left: bool = False


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A verified token, its length, and when it was verified (seconds since the epoch).

    `revision` is that of the key set it was verified by.
    """

    token: VerifiedToken
    revision: str
    length: int
    verified_at: float
    place: _Place


class TokenMemory:
    """Judges tokens as `verify` does, and knows those again that it verified. Thread-safe.

    `max_bytes` counts the tokens' own texts; what is kept of each is a small
    multiple of that. Nothing is used longer than `max_age_seconds`.
    """

    def __init__(
        self,
        *,
        max_tokens: int = 10_000,
        max_bytes: int = 16 * 1024 * 1024,
        max_age_seconds: float = 3600.0,
        verify: Verify = verify_token,
    ) -> None:
        """Start empty; with `max_tokens` 0 nothing is remembered."""
        self._max_tokens = max_tokens
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._verify = verify
        self._lock = threading.Lock()
        self._bytes = 0
        self._tokens: OrderedDict[_Key, _Remembered] = OrderedDict()
        # Each token, and some of those that are forgotten, in the order they are looked at.
        self._round: deque[_Place] = deque()

    def __len__(self) -> int:
        """Return how many tokens are remembered."""
        return len(self._tokens)

    def verify(
        self, text: str, rule: JwtRule, keys: Callable[[], JwkSet | None], now: float
    ) -> Verdict:
        """Return the token with its proof, or why it is refused; as `verify_token`."""
        key_set = keys()
        if key_set is None or not key_set.revision:
            return self._verify(text, rule, lambda: key_set, now)
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        key = (digest, rule.issuer, rule.audiences, rule.jwks_uri, rule.jwks)
        known = self._recall(key, key_set.revision, now)
        if known is not None:
            return known
        verdict = self._verify(text, rule, lambda: key_set, now)
        if isinstance(verdict, VerifiedToken):
            self._remember(key, verdict, key_set.revision, len(text), now)
        return verdict

    def _recall(self, key: _Key, revision: str, now: float) -> VerifiedToken | None:
        """Return a token that may be used now; one that may not is forgotten."""
        with self._lock:
            found = self._tokens.get(key)
            if found is None:
                return None
            # A clock that was set back makes what it verified before look like the future.
            age = now - found.verified_at
            if (
                found.revision == revision
                and 0 <= age <= self._max_age_seconds
                and is_in_time(found.token.claims, now)
            ):
                self._tokens.move_to_end(key)
                return found.token
            self._forget(key)
            return None

    def _remember(
        self, key: _Key, token: VerifiedToken, revision: str, length: int, now: float
    ) -> None:
        """Keep a token, and forget as many as it takes to stay within the bounds."""
        place = _Place(key, self._end_of(token, now))
        with self._lock:
            self._look_round(now)
            if key in self._tokens:
                self._forget(key)
            self._tokens[key] = _Remembered(token, revision, length, now, place)
            self._round.append(place)
            self._bytes += length
            while self._tokens and (
                len(self._tokens) > self._max_tokens or self._bytes > self._max_bytes
            ):
                self._forget(next(iter(self._tokens)))

    def _look_round(self, now: float) -> None:
        """Look at a few tokens, lock held, and forget those that may not be used any more."""
        for _ in range(min(_LOOKED_AT, len(self._round))):
            place = self._round.popleft()
            if place.has_left:
                continue
            if place.ends_at < now:
                self._forget(place.key)
            else:
                self._round.append(place)

    def _forget(self, key: _Key) -> None:
        """Forget a token that is remembered, lock held."""
        found = self._tokens.pop(key)
        found.place.has_left = True
        self._bytes -= found.length

    def _end_of(self, token: VerifiedToken, now: float) -> float:
        """Return until when a token may be used that was verified now, or a little longer."""
        expires_at = token.claims.expires_at
        end = expires_at + CLOCK_SKEW_SECONDS + 1 if expires_at else inf
        return min(end, now + self._max_age_seconds)
