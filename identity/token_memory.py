"""Verified tokens, remembered by the digest of the whole token.

Theory of operation. The signature of a token is checked once; after that the same
bytes are known by their SHA-256. Rules this file keeps:
- the whole token is digested, signature included: nothing else is ever recognized;
- what is remembered is bound to everything the verdict came from: the rule's issuer
  and audiences, and the revision of the key set, so that a set without the key, or
  a rule with another audience, meets a stranger;
- the token's times are held against the clock at every use;
- only tokens that were verified are remembered, in bounded number and bytes, and the
  ones used longest ago are forgotten first. Refusals are never remembered, so that
  no flood of them drives out what is good;
- a token that has come to its end is forgotten when another one comes, used or not:
  nobody asks for it again, nor for one whose key set was replaced.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
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

_Key = tuple[bytes, str, tuple[str, ...], str]
# BUDGET: ends of tokens that were forgotten before, beside as many as there are tokens.
_ENDS_TOO_MANY: Final = 64


@dataclass(frozen=True, slots=True)
class _Remembered:
    """A verified token, its length, and when it was verified (seconds since the epoch)."""

    token: VerifiedToken
    length: int
    verified_at: float


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
        # A heap: when each token comes to its end, some of those that are forgotten as well.
        self._ends: list[tuple[float, _Key]] = []

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
        key = (digest, rule.issuer, rule.audiences, key_set.revision)
        known = self._recall(key, now)
        if known is not None:
            return known
        verdict = self._verify(text, rule, lambda: key_set, now)
        if isinstance(verdict, VerifiedToken):
            self._remember(key, _Remembered(verdict, len(text), now))
        return verdict

    def _recall(self, key: _Key, now: float) -> VerifiedToken | None:
        """Return a token that may be used now; one that may not is forgotten."""
        with self._lock:
            found = self._tokens.get(key)
            if found is None:
                return None
            # A clock that was set back makes what it verified before look like the future.
            age = now - found.verified_at
            if 0 <= age <= self._max_age_seconds and is_in_time(found.token.claims, now):
                self._tokens.move_to_end(key)
                return found.token
            self._bytes -= self._tokens.pop(key).length
            return None

    def _remember(self, key: _Key, found: _Remembered) -> None:
        """Keep a token, and forget as many as it takes to stay within the bounds."""
        with self._lock:
            self._forget_ended(found.verified_at)
            before = self._tokens.pop(key, None)
            self._tokens[key] = found
            heappush(self._ends, (self._end_of(found), key))
            self._bytes += found.length - (0 if before is None else before.length)
            while self._tokens and (
                len(self._tokens) > self._max_tokens or self._bytes > self._max_bytes
            ):
                _, oldest = self._tokens.popitem(last=False)
                self._bytes -= oldest.length

    def _forget_ended(self, now: float) -> None:
        """Forget, lock held, the tokens that may not be used any more."""
        while self._ends and self._ends[0][0] < now:
            _, key = heappop(self._ends)
            found = self._tokens.get(key)
            if found is not None and self._end_of(found) < now:
                self._bytes -= self._tokens.pop(key).length
        if len(self._ends) > 2 * len(self._tokens) + _ENDS_TOO_MANY:
            self._ends = [(self._end_of(found), key) for key, found in self._tokens.items()]
            heapify(self._ends)

    def _end_of(self, found: _Remembered) -> float:
        """Return until when a token may be used, or a little longer."""
        expires_at = found.token.claims.expires_at
        end = expires_at + CLOCK_SKEW_SECONDS + 1 if expires_at else inf
        return min(end, found.verified_at + self._max_age_seconds)
