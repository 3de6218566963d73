"""The X.509-SVIDs of one stream: issued to its caller, replaced before they end, dropped when lost.

Each stream has keys of its own: two processes never share one, and the record of each certificate
names the process that it went to.

INVARIANT: nothing is held that a peer would refuse: an SVID that has ended, whose ID, key or serial
number is denied, or that no root in the bundle vouches for, is gone from `svids` at the next look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog
from cryptography import x509

from ca.caller import Caller
from ca.clock import Clock
from ca.entries import RegistrationEntry
from ca.errors import CaError, SvidInvalidError
from ca.registry import RegistryState
from ca.renewal import renew_at
from ca.svid import X509Svid
from ca.validate import verify_x509_svid
from identity.spiffe_id import SpiffeId

_log = structlog.get_logger(__name__)
_FIRST_RETRY: Final = timedelta(seconds=1)
_LAST_RETRY: Final = timedelta(seconds=60)

IssueSvid = Callable[[SpiffeId, Caller], X509Svid]
"""Issues with a new key and records; blocks. `ca.issuance.Issuance.issue` is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldSvid:
    """One SVID, the entry that gave it, and when its successor is due."""

    svid: X509Svid
    entry: RegistrationEntry
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingParts:
    """What holding SVIDs needs from outside; `random` returns a float in [0, 1).

    `chain` returns what the authority that signs now sends with a leaf; an SVID of another one is
    replaced.
    """

    issue: IssueSvid
    chain: Callable[[], tuple[x509.Certificate, ...]]
    clock: Clock
    random: Callable[[], float]
    note_late: Callable[[], None] = lambda: None


class HeldSvids:
    """What one stream holds; for one coroutine only."""

    def __init__(self, parts: HoldingParts) -> None:
        """Hold nothing yet."""
        self._parts = parts
        self._held: dict[SpiffeId, HeldSvid] = {}
        self._retry_at: datetime | None = None
        self._retry = _FIRST_RETRY

    @property
    def svids(self) -> tuple[HeldSvid, ...]:
        """What is good now, in the order of the entries."""
        now = self._parts.clock()
        return tuple(each for each in self._held.values() if each.svid.is_valid_at(now))

    def seconds_left(self) -> float:
        """Return how long nothing has to be done: until a successor is due, or something ends."""
        now = self._parts.clock()
        if self._retry_at is not None:
            left = self._retry_at - now
            # WHY the bound: a clock that was set back must not stretch the wait.
            return left.total_seconds() if left <= _LAST_RETRY else 0.0
        if any(not held.svid.is_valid_at(now) for held in self._held.values()):
            return 0.0
        return min(
            ((held.due_at - now).total_seconds() for held in self._held.values()), default=0.0
        )

    async def update(
        self, caller: Caller, state: RegistryState, roots: Sequence[x509.Certificate]
    ) -> None:
        """Hold what `caller` may hold under `state` and `roots`; issue what is missing or due.

        Raises:
            CaError: nothing is left to hold, because of this.
        """
        grants = dict(state.grants(caller, self._parts.clock()))
        kept = {
            spiffe_id: held
            for spiffe_id, held in self._held.items()
            if held.entry == grants.get(spiffe_id) and self._is_good(held, state, roots)
        }
        error: CaError | None = None
        held_now: dict[SpiffeId, HeldSvid] = {}
        for spiffe_id, entry in grants.items():
            old = kept.get(spiffe_id)
            if old is not None and not self._is_due(old):
                held_now[spiffe_id] = old
                continue
            try:
                held_now[spiffe_id] = await self._issue(spiffe_id, caller, entry)
            except CaError as exc:
                error = exc
                self._note_failure(spiffe_id, exc)
                if old is not None:
                    held_now[spiffe_id] = old
        self._held = held_now
        self._plan_retry(is_failing=error is not None)
        if error is not None and not self.svids:
            raise error

    async def _issue(
        self, spiffe_id: SpiffeId, caller: Caller, entry: RegistrationEntry
    ) -> HeldSvid:
        """Return a new SVID."""
        svid = await asyncio.to_thread(self._parts.issue, spiffe_id, caller)
        due_at = renew_at(self._parts.clock(), svid.expires_at, self._parts.random())
        return HeldSvid(svid=svid, entry=entry, due_at=due_at)

    def _is_due(self, held: HeldSvid) -> bool:
        """Return whether an SVID that is good still should have a successor."""
        is_of_another = held.svid.chain[1:] != self._parts.chain()
        return is_of_another or self._parts.clock() >= held.due_at

    def _is_good(
        self, held: HeldSvid, state: RegistryState, roots: Sequence[x509.Certificate]
    ) -> bool:
        """Return whether peers would take an SVID still, and nobody has denied it."""
        now, svid = self._parts.clock(), held.svid
        if state.denial_of(svid.spiffe_id, svid.leaf, now) is not None:
            return False
        try:
            verify_x509_svid(held.svid, roots, now=now)
        except SvidInvalidError:
            return False
        return True

    def _note_failure(self, spiffe_id: SpiffeId, error: CaError) -> None:
        """Say that a renewal that was due has failed."""
        self._parts.note_late()
        _log.error(
            "svid_renewal_failed", spiffe_id=str(spiffe_id), error=str(error), code=error.code
        )

    def _plan_retry(self, *, is_failing: bool) -> None:
        """Wait longer after each failure in a row."""
        if not is_failing:
            self._retry_at, self._retry = None, _FIRST_RETRY
            return
        self._retry_at = self._parts.clock() + self._retry
        self._retry = min(2 * self._retry, _LAST_RETRY)


def unique_hints(entries: Sequence[RegistrationEntry]) -> Mapping[str, str]:
    """Return the hint of each entry by its ID; of two alike the later one has none.

    Spec: SPIFFE Workload API §5.2.1: hints are unique among the SVIDs of one response.
    """
    found: dict[str, str] = {}
    for entry in entries:
        found[entry.entry_id] = "" if entry.hint in found.values() else entry.hint
    return found
