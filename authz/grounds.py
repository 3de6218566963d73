"""What a decision rests on besides the request and the policies, and whether that still holds.

Theory of operation. A walk that is to be remembered is made in surroundings that note what it
asks of them: the trust bundles, the deny list, the keys of each token's issuer, the tokens and
certificates that were verified. All of it is asked for again before the decision counts once
more. INVARIANT: what cannot be asked for again, or may heal by itself, is no ground: a token
that was refused, or that its issuer was asked about.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, TypeVar

from authz.walk import Surroundings
from identity.deny_list import DenyList
from identity.jose import RegisteredClaims
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from identity.jwt_verify import Verdict, VerifiedToken, is_in_time
from identity.svid_fault import SvidRefusal
from identity.svid_memory import SvidMemory
from identity.token_status import TokenStatus
from identity.trust_bundle import BundleSet
from identity.x509_svid import X509Svid

# BUDGET: whatever holds, a decision is made anew after this; it costs one walk a minute.
_LONGEST_SECONDS: Final = 60.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What one decision rests on. `decided_at` is in seconds of the clock that judges tokens."""

    decided_at: float
    bundles: BundleSet
    denied: DenyList
    keys: tuple[tuple[JwtRule, JwkSet | None], ...] = ()
    tokens: tuple[RegisteredClaims, ...] = ()
    svids: tuple[X509Svid, ...] = ()

    def hold(self, around: Surroundings) -> bool:
        """Whether a walk would find the same today, in these surroundings."""
        now = around.now()
        # A clock that was set back makes what was found before look like the future.
        if not 0 <= now - self.decided_at < _LONGEST_SECONDS:
            return False
        if around.bundles() is not self.bundles or around.peer_rules.denied() is not self.denied:
            return False
        for rule, found in self.keys:
            # WHY the very object: a set that was fetched anew is asked anew, whatever it holds.
            if around.keys.keys_for(rule) is not found:
                return False
        for claims in self.tokens:
            if not is_in_time(claims, now):
                return False
        return not self.svids or self._svids_hold(datetime.fromtimestamp(now, UTC))

    def _svids_hold(self, at: datetime) -> bool:
        return all(each.valid_from_at <= at <= each.valid_until_at for each in self.svids)


class GroundsWatch:
    """Notes what one walk rests on; walk in `around`, then ask for the grounds. For one thread."""

    def __init__(self, given: Surroundings) -> None:
        """Begin with nothing noted."""
        self._given = given
        self._latest = -math.inf
        self._bundles: list[BundleSet] = []
        self._denied: list[DenyList] = []
        self._keys: list[tuple[JwtRule, JwkSet | None]] = []
        self._tokens: list[RegisteredClaims] = []
        self._svids = _WatchedSvids(given.svids)
        self._is_lasting = True
        self.around = replace(
            given,
            now=self._now,
            bundles=lambda: _noted(self._bundles, given.bundles()),
            peer_rules=replace(
                given.peer_rules,
                denied=lambda: _noted(self._denied, given.peer_rules.denied()),
            ),
            svids=self._svids,
            verify_token=self._verify,
        )
        """The surroundings that note what is asked of them."""

    def grounds(self) -> Grounds | None:
        """Return what the walk rested on; None where that may change without a sign."""
        bundles, denied = _only(self._bundles), _only(self._denied)
        if not self._is_lasting or self._svids.has_refused or bundles is None or denied is None:
            return None
        return Grounds(
            decided_at=self._latest,
            bundles=bundles,
            denied=denied,
            keys=tuple(self._keys),
            tokens=tuple(self._tokens),
            svids=tuple(self._svids.found),
        )

    def _now(self) -> float:
        now = self._given.now()
        self._latest = max(self._latest, now)
        return now

    def _verify(
        self, text: str, rule: JwtRule, keys: Callable[[], JwkSet | None], now: float
    ) -> Verdict:
        asked: list[JwkSet | None] = []
        verdict = self._given.verify_token(text, rule, lambda: _noted(asked, keys()), now)
        if isinstance(verdict, VerifiedToken):
            self._tokens.append(verdict.claims)
            # Who was verified without a key was vouched for by the issuer, for now.
            self._is_lasting &= _only(asked) is not None
        else:
            # Another issuer's token stays one; every other refusal may end.
            self._is_lasting &= verdict.status is TokenStatus.UNKNOWN_ISSUER and bool(asked)
        self._keys += [(rule, each) for each in asked[:1]]
        return verdict


class _WatchedSvids(SvidMemory):
    """A memory of certificates that notes what was verified."""

    __slots__ = ("_given", "found", "has_refused")

    def __init__(self, given: SvidMemory) -> None:
        super().__init__()
        self._given = given
        self.found: list[X509Svid] = []
        self.has_refused = False

    def verify(
        self, chain: tuple[bytes, ...], bundles: BundleSet, at: datetime
    ) -> X509Svid | SvidRefusal:
        """Return what the given memory says, and note it."""
        verdict = self._given.verify(chain, bundles, at)
        if isinstance(verdict, X509Svid):
            self.found.append(verdict)
        else:
            self.has_refused = True
        return verdict


def _noted(kept: list[_T], found: _T) -> _T:
    kept.append(found)
    return found


def _only(found: list[_T]) -> _T | None:
    """Return the one object that was found each time, None where there were several or none."""
    return found[0] if found and all(each is found[0] for each in found) else None
