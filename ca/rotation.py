"""When an authority may change its slot, so that nothing signed is ever without a trusted root.

Theory of operation. A prepared authority's roots are in the bundle and sign nothing. It may be
activated when every open stream that carries roots has acknowledged them, or when the stated wait
is over, for those who have no stream; and not before other trust domains have had the time to fetch
them, and callers of the signing endpoints to come back. A retired authority's roots stay until the
last leaf it can have signed is over. A wait counts anew from a jump of the wall clock, which proves
nothing about how long others had.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from threading import Lock
from typing import TypeAlias

import structlog
from cryptography.hazmat.primitives import hashes

from ca.authority import AuthorityKeeper
from ca.clock import Clock
from ca.errors import CaError, RotationRefusedError, StoreError
from ca.last_leaf import LastLeaf
from ca.making import PluggedAuthority
from ca.shared_state import Replicas
from ca.slots import Slot
from ca.state import Phase
from ca.streams import OpenStream, OpenStreams

_log = structlog.get_logger(__name__)

RecordStep: TypeAlias = Callable[[Mapping[str, object]], None]
"""Puts a step of a rotation on record; raises a CaError when it cannot."""

# BUDGET: of a root's life, what is left when the next is prepared, and when it begins to sign.
_PREPARE_AT_REMAINING = 4
_ACTIVATE_AT_REMAINING = 6
_MAX_NAMED = 3
# WHY a day: whoever rotates by hand gets to retire by hand.
_RETIRE_ALONE_AFTER = timedelta(days=1)


class Rotation:
    """Moves the authorities of a keeper through their slots, each step guarded."""

    def __init__(
        self, keeper: AuthorityKeeper, streams: OpenStreams, clock: Clock, wait: timedelta
    ) -> None:
        """Guard `keeper`; `wait` is what clients without acknowledgements get.

        `publication`, none at first, is how long other trust domains need to fetch a new bundle.
        """
        self._keeper = keeper
        self._streams = streams
        self._clock = clock
        self._wait = wait
        self._wait_from: datetime | None = None
        self.last_leaf: LastLeaf | None = None
        self.publication = timedelta(0)
        self.replicas: Replicas | None = None
        self.record: RecordStep | None = None
        self._unrecorded: list[Mapping[str, object]] = []
        self._recording = Lock()

    def prepare(self, plugged: PluggedAuthority | None = None) -> Slot:
        """Trust a new authority, or an existing one; it does not sign yet.

        Raises:
            RotationRefusedError: one is prepared already.
            StateError, KeyFileError: it could not be written.
        """
        slot = self._keeper.prepare(plugged)
        _log.info("authority_prepared", number=slot.number, sequence=self._keeper.sequence)
        self._record("prepare", slot, ())
        return slot

    def activate(self, *, force: bool = False) -> Slot:
        """Let the prepared authority sign.

        Raises:
            RotationRefusedError: there is none, or somebody does not know its root yet.
            StateError, KeyFileError: it could not be written.
        """
        blockers = self.activation_waits_for()
        if blockers and not force:
            raise RotationRefusedError(
                f"the prepared root is not known to all: {'; '.join(blockers)}",
                help="wait, or use --force and accept failing handshakes",
            )
        slot = self._keeper.activate()
        _log.info("authority_activated", number=slot.number, forced_past=list(blockers))
        self._record("activate", slot, blockers)
        return slot

    def retire(self, *, force: bool = False) -> Slot:
        """Trust the retired authority no more.

        Raises:
            RotationRefusedError: there is none, or leaves that it signed are still good.
            StateError: it could not be written.
        """
        blockers = self.retirement_waits_for()
        if blockers and not force:
            raise RotationRefusedError(
                f"the retired root is still needed: {'; '.join(blockers)}",
                help="wait, or use --force and accept failing handshakes",
            )
        slot = self._keeper.retire()
        _log.info("authority_gone", number=slot.number, forced_past=list(blockers))
        self._record("retire", slot, blockers)
        return slot

    def activation_waits_for(self) -> tuple[str, ...]:
        """Return what stands against activating the prepared authority, nothing when it may be."""
        slot = self._keeper.in_phase(Phase.PREPARED)
        if slot is None or self._is_known_root(slot):
            return ()
        away = self._away(slot)
        lagging = _named(self._streams.lagging(slot.entry.sequence))
        lagging += self._lagging_replicas(slot.entry.sequence)
        if self._streams.carriers() and not lagging:
            return away
        ends_at = max(slot.entry.since, self._wait_from or slot.entry.since) + self._wait
        left = ends_at - self._clock()
        if left <= timedelta(0):
            return away
        return (*lagging, f"{_seconds(left)} s of the wait are left", *away)

    def _away(self, slot: Slot) -> tuple[str, ...]:
        """Return who cannot have heard of a prepared authority yet and has no stream to say so."""
        now, since = self._clock(), max(slot.entry.since, self._wait_from or slot.entry.since)
        waits: list[str] = []
        if (left := since + self.publication - now) > timedelta(0):
            waits.append(f"other trust domains may fetch it for {_seconds(left)} s more")
        if self.last_leaf is None:
            return tuple(waits)
        try:
            ends_at = self.last_leaf.unheard_until(slot.entry.since, now)
        except StoreError as exc:
            return (*waits, f"the ledger cannot be asked who has not heard of it: {exc}")
        if ends_at is not None and (left := ends_at + timedelta(seconds=1) - now) > timedelta(0):
            waits.append(f"signed certificates without it may live for {_seconds(left)} s")
        return tuple(waits)

    def retirement_waits_for(self) -> tuple[str, ...]:
        """Return what stands against retiring the retired authority, nothing when it may be."""
        slot = self._keeper.in_phase(Phase.RETIRED)
        if slot is None or slot.entry.trusted_until is None:
            return ()
        # RFC 5280 §4.1.2.5: the validity includes its last second.
        over_at = self._needed_until(slot, slot.entry.trusted_until) + timedelta(seconds=1)
        left = over_at - self._clock()
        if left <= timedelta(0):
            return ()
        return (f"its last leaf may live for {_seconds(left)} s",)

    def note_clock_jump(self) -> None:
        """Let the stated wait begin anew: the wall clock does not say how long it has been."""
        self._wait_from = self._clock()

    def advance(self) -> None:
        """Take the step that is due by age, if any: prepare, activate, or retire.

        Raises:
            CaError: it was due and failed; the next call tries again.
        """
        now = self._clock()
        retired = self._keeper.in_phase(Phase.RETIRED)
        if retired is not None:
            ends_at = retired.entry.trusted_until or now
            if now >= ends_at + _RETIRE_ALONE_AFTER:
                self.retire()
            return
        active, prepared = (
            self._keeper.in_phase(Phase.ACTIVE),
            self._keeper.in_phase(Phase.PREPARED),
        )
        if active is None or active.entry.root.key is None:
            # A plugged-in authority is replaced by whoever plugged it in.
            return
        if prepared is None and _is_old(active, now, _PREPARE_AT_REMAINING):
            self.prepare()
        elif (
            prepared is not None
            and _is_old(active, now, _ACTIVATE_AT_REMAINING)
            and not self.activation_waits_for()
        ):
            self.activate()

    def _needed_until(self, retired: Slot, longest: datetime) -> datetime:
        """Return when the last leaf of a retired authority ends, `longest` when nobody knows."""
        active = self._keeper.in_phase(Phase.ACTIVE)
        if self.last_leaf is None or active is None:
            return longest
        ends_at = self.last_leaf.ends_at(retired, active.intermediate, self._clock())
        return longest if ends_at is None else min(ends_at, longest)

    def _record(self, step: str, slot: Slot, blockers: tuple[str, ...]) -> None:
        """Put a step on record. It is done by then, so what fails is kept and tried again."""
        self._unrecorded.append(
            {
                "step": step,
                "authority": slot.number,
                "root_sha256": slot.root.fingerprint(hashes.SHA256()).hex(),
                "sequence": self._keeper.sequence,
                "forced_past": list(blockers),
            }
        )
        self.record_pending()

    def record_pending(self) -> None:
        """Put on record, in their order, the steps that could not be until now."""
        with self._recording:
            while self.record is not None and self._unrecorded:
                details = self._unrecorded[0]
                try:
                    self.record(details)
                except CaError as exc:
                    _log.error("authority_step_not_recorded", error=str(exc), **details)
                    return
                self._unrecorded.pop(0)

    def acknowledged(self) -> int:
        """Return the newest bundle that every stream here with roots has acknowledged."""
        carriers = self._streams.carriers()
        return min((s.acknowledged for s in carriers), default=self._keeper.sequence)

    def _lagging_replicas(self, sequence: int) -> tuple[str, ...]:
        """Return what the other replicas have against bundle `sequence`."""
        if self.replicas is None:
            return ()
        try:
            names = self.replicas.lagging(sequence)
        except StoreError as exc:
            return (f"the other replicas cannot be asked: {exc}",)
        return tuple(f"not acknowledged by all at replica `{name}`" for name in names)

    def _is_known_root(self, slot: Slot) -> bool:
        """Return whether others trust a slot's root already, as the root of another slot."""
        others = (s for s in self._keeper.slots if s.number != slot.number)
        return slot.root in {root for other in others for root in other.roots}


def _is_old(slot: Slot, now: datetime, share: int) -> bool:
    """Return whether 1/`share` or less of a root's life is left."""
    end = slot.root.not_valid_after_utc
    return end - now <= (end - slot.root.not_valid_before_utc) / share


def _named(streams: tuple[OpenStream, ...]) -> tuple[str, ...]:
    """Return the streams that lag as one clause, the first of them by name."""
    if not streams:
        return ()
    names = [f"`{stream.spiffe_id}`" for stream in streams[:_MAX_NAMED]]
    more = f" and {len(streams) - _MAX_NAMED} more" if len(streams) > _MAX_NAMED else ""
    return (f"not acknowledged by {', '.join(names)}{more}",)


def _seconds(span: timedelta) -> int:
    """Return a span in whole seconds, rounded up."""
    return -int(-span.total_seconds() // 1)
