"""The authority in force, and those before and after it: what signs, and what is trusted.

Theory of operation. At the first start an authority is made (or an existing one plugged in); at
every later start all are loaded and checked as if a stranger had written them. The intermediate is
renewed when a third of its life is left; leaves carry their intermediate with them, so only the
root must be known to peers. A root's key signs intermediates and nothing else, and may be kept
elsewhere between. Authorities move through three slots; this file moves them, `ca.rotation` says
when that is safe.

Every change reads the manifest anew and replaces it as a whole, under the store's exclusion: where
several replicas share one, the last writer has seen what the others wrote.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from cryptography import x509

from ca.clock import Clock
from ca.crl import ListIssuer, list_issuers
from ca.errors import (
    AuthorityExpiredError,
    CaError,
    KeyFileError,
    RotationRefusedError,
    StateError,
)
from ca.key_kinds import PrivateKey
from ca.keys import KeyStore
from ca.making import AuthorityMaker, AuthorityPlan, PluggedAuthority
from ca.retry import Retry
from ca.slots import Slot, load_slot, load_slots, orphaned_keys, trusted_roots
from ca.state import Manifest, ManifestStore, Phase, SlotEntry
from ca.svid import to_pem
from identity.spiffe_id import TrustDomain

__all__ = ["Authority", "AuthorityKeeper", "AuthorityPlan", "PluggedAuthority", "check_in_force"]

_log = structlog.get_logger(__name__)
_RENEW_AT_REMAINING = 3
# WHY not at each call: with the root's key offline that would be a look at the disk and a line in
# the log for every certificate, for a month.
_RETRY = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The certificates in force and the key that signs leaves.

    `chain` is what a leaf is sent with; `roots` is what a peer has to trust. `number` counts the
    trust domain's authorities, `sequence` the changes of its roots.
    """

    trust_domain: TrustDomain
    root: x509.Certificate
    intermediate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    number: int = 1
    sequence: int = 1
    key: PrivateKey = field(repr=False)


class AuthorityKeeper:
    """Makes, loads, checks, renews and rotates the authorities of one state."""

    def __init__(
        self,
        state: ManifestStore,
        keys: KeyStore,
        plan: AuthorityPlan,
        clock: Clock,
        *,
        must_sign: bool = True,
    ) -> None:
        """Load the authorities, or make the first at the first start.

        `must_sign` false is for looking and repairing: an expired authority is no error then.

        Raises:
            OperatorError: the state cannot be believed or written, or nothing in force signs.
        """
        self._state = state
        self._keys = keys
        self._plan = plan
        self._clock = clock
        self._maker = AuthorityMaker(plan, keys)
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        self._renewing = Retry(_RETRY)
        with state.exclusively():
            found = state.load_manifest()
            self._take(found or self._make())
            if found is not None:
                self._forget_orphans()
        state.publish_bundle(self.bundle_pem())
        if must_sign:
            self.current()

    @property
    def renewal_error(self) -> str:
        """Why the renewal of the intermediate that is due has failed, empty where none has."""
        return self._renewing.why

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Every authority, oldest first."""
        return self._slots

    @property
    def roots(self) -> tuple[x509.Certificate, ...]:
        """The X.509 trust bundle of the trust domain."""
        return trusted_roots(self._slots)

    @property
    def sequence(self) -> int:
        """How often the roots changed: the bundle's `spiffe_sequence`."""
        return self._manifest.sequence

    @property
    def plan(self) -> AuthorityPlan:
        """What authorities are made after."""
        return self._plan

    def bundle_pem(self) -> str:
        """Return the trust bundle as PEM."""
        return to_pem(self.roots).decode()

    def in_phase(self, phase: Phase) -> Slot | None:
        """Return the authority in a slot, or None."""
        return next((slot for slot in self._slots if slot.phase is phase), None)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change of the slots, in the thread that made it."""
        self._listeners.append(listener)

    def current(self) -> Authority:
        """Return the authority to sign with now, its intermediate renewed when that is due.

        A renewal that fails is logged, once for each cause, and tried again a little later; the old
        intermediate signs as long as it holds.

        Raises:
            AuthorityExpiredError: there is nothing in force to sign with.
        """
        with self._lock:
            now, slot = self._clock(), self._active
            check_in_force(slot.root, "root", now)
            if not _is_renewal_due(slot, now):
                self._renewing.note_success()
            elif self._renewing.is_due(now):
                try:
                    self._renew(now)
                    self._renewing.note_success()
                except CaError as exc:
                    if self._renewing.note_failure(str(exc), now):
                        _log.error("intermediate_renewal_failed", error=str(exc), code=exc.code)
            for certificate in self._active.chain:
                check_in_force(certificate, "intermediate", now)
            return self._authority

    def list_issuers(self) -> tuple[ListIssuer, ...]:
        """Return the authorities that owe a revocation list now.

        Raises:
            KeyFileError: a key cannot be read.
        """
        return list_issuers(self._slots, self._keys, self._clock())

    def refresh(self) -> None:
        """Take up what another replica changed.

        Raises:
            StateError: what is there now cannot be believed; what was loaded stays.
        """
        with self._lock:
            manifest = self._state.load_manifest()
            if manifest is not None and manifest != self._manifest:
                self._take(manifest)
                self._announce()

    def prepare(self, plugged: PluggedAuthority | None = None) -> Slot:
        """Put a new authority (or an existing one) into the prepared slot: trusted, not signing.

        Raises:
            RotationRefusedError: the slot is taken.
            StateError, KeyFileError: it could not be written; nothing changed.
        """
        with self._changing() as change:
            if change.manifest.in_phase(Phase.PREPARED) is not None:
                raise RotationRefusedError("an authority is prepared already")
            now, number = self._clock(), change.manifest.last_number + 1
            sequence, phase = change.manifest.sequence + 1, Phase.PREPARED
            if plugged is None:
                entry = self._maker.make_slot(number, phase, now, sequence=sequence)
            else:
                entry = self._maker.adopt(plugged, number, phase, now, sequence=sequence)
            change.put((*change.manifest.slots, entry), last_number=number)
        return self._slot(number)

    def activate(self) -> Slot:
        """Let the prepared authority sign; the one before it retires.

        Raises:
            RotationRefusedError: there is none, or the retired slot is still taken.
            StateError, KeyFileError: it could not be written; nothing changed.
        """
        with self._changing() as change:
            prepared = change.manifest.in_phase(Phase.PREPARED)
            if prepared is None:
                raise RotationRefusedError("no authority is prepared")
            if change.manifest.in_phase(Phase.RETIRED) is not None:
                raise RotationRefusedError(
                    "the retired slot is taken", help="run `meshwarden ca rotate retire` first"
                )
            now, active = self._clock(), self._active
            ends = min(now + self._plan.leaf_lifetime, active.intermediate.not_valid_after_utc)
            retired = {"phase": Phase.RETIRED, "since": now, "trusted_until": ends}
            change.put(
                (
                    active.entry.model_copy(update=retired),
                    prepared.model_copy(update={"phase": Phase.ACTIVE, "since": now}),
                )
            )
        return self._active

    def retire(self) -> Slot:
        """Take the retired authority's root out of the bundle, and forget its keys.

        Raises:
            RotationRefusedError: the retired slot is empty.
            StateError: it could not be written; nothing changed.
        """
        with self._changing() as change:
            gone = self.in_phase(Phase.RETIRED)
            if gone is None:
                raise RotationRefusedError("no authority is retired")
            change.put(tuple(s for s in change.manifest.slots if s.phase is not Phase.RETIRED))
        for name in (gone.entry.root.key, gone.entry.intermediate.key):
            if name is not None:
                self._keys.remove_key(name)
        return gone

    @property
    def _active(self) -> Slot:
        """The authority that signs."""
        return next(slot for slot in self._slots if slot.phase is Phase.ACTIVE)

    def _slot(self, number: int) -> Slot:
        """The authority of a number."""
        return next(slot for slot in self._slots if slot.number == number)

    def _changing(self) -> _Change:
        """Return one change of the slots, as a context manager."""
        return _Change(self)

    def _make(self) -> Manifest:
        """Make the first authority and put it in force."""
        now, plan = self._clock(), self._plan
        if plan.plugged is None:
            entry = self._maker.make_slot(1, Phase.ACTIVE, now)
        else:
            entry = self._maker.adopt(plan.plugged(), 1, Phase.ACTIVE, now)
        expires_at = load_slot(entry, plan.trust_domain).root.not_valid_after_utc
        manifest = Manifest(trust_domain=plan.trust_domain.name, slots=(entry,))
        self._state.store_manifest(manifest)
        _log.info(
            "authority_made", trust_domain=plan.trust_domain.name, expires_at=expires_at.isoformat()
        )
        return manifest

    def _renew(self, now: datetime) -> None:
        """Put a new intermediate of the active authority in force and forget the old one's key."""
        old = self._active
        root_key = self._keys.load_key(old.entry.root.key) if old.entry.root.key else None
        if root_key is None:
            raise StateError("the root's key is not here, so no intermediate can be signed")
        with self._changing() as change:
            entry = self._maker.make_intermediate(old.root, root_key, now)
            renewed = old.entry.model_copy(update={"intermediate": entry})
            change.put(
                tuple(renewed if s.number == old.number else s for s in change.manifest.slots)
            )
        ends = self._active.intermediate.not_valid_after_utc.isoformat()
        _log.info("intermediate_renewed", expires_at=ends)
        if old.entry.intermediate.key is not None:
            self._keys.remove_key(old.entry.intermediate.key)

    def _forget_orphans(self) -> None:
        """Remove the keys that no authority names: what a killed process had made, or retired.

        Such a key is worth nothing, for its certificate is nowhere; the caller keeps other writers
        out, so none of them is about to be named.
        """
        try:
            for name in orphaned_keys(self._keys.key_names(), self._slots):
                self._keys.remove_key(name)
                _log.warning("orphaned_key_removed", key=name)
        except KeyFileError as exc:
            # It harms nobody where it is; the next start tries again.
            _log.warning("orphaned_key_left", error=str(exc))

    def _take(self, manifest: Manifest) -> None:
        """Make `manifest` what this keeper answers from, or leave everything as it was."""
        slots = load_slots(manifest, self._plan.trust_domain)
        authority = self._load(slots, manifest.sequence)
        self._manifest, self._slots, self._authority = manifest, slots, authority

    def _load(self, slots: tuple[Slot, ...], sequence: int) -> Authority:
        """Return the active one of `slots` with its key."""
        slot = next(slot for slot in slots if slot.phase is Phase.ACTIVE)
        name = slot.entry.intermediate.key or ""
        key = self._keys.load_key(name)
        if key is None:
            raise StateError(f"key `{name}` of the intermediate is missing")
        if key.public_key() != slot.intermediate.public_key():
            raise StateError(f"key `{name}` is not the intermediate's key")
        return Authority(
            trust_domain=self._plan.trust_domain,
            root=slot.root,
            intermediate=slot.intermediate,
            chain=slot.chain,
            roots=trusted_roots(slots),
            number=slot.number,
            sequence=sequence,
            key=key,
        )

    def _announce(self) -> None:
        """Publish the bundle and tell everyone who listens."""
        self._state.publish_bundle(self.bundle_pem())
        for listener in self._listeners:
            listener()


class _Change:
    """One change of a keeper's slots: nobody else writes meanwhile, and it is all or nothing."""

    def __init__(self, keeper: AuthorityKeeper) -> None:
        """Plan a change; nothing is held yet."""
        self._keeper = keeper
        self._exclusion = keeper._state.exclusively()
        self._is_put = False

    @property
    def manifest(self) -> Manifest:
        """What is in force before the change."""
        return self._keeper._manifest

    def put(self, slots: tuple[SlotEntry, ...], *, last_number: int | None = None) -> None:
        """Put `slots` in force; the sequence rises when the roots are others than before."""
        keeper, manifest = self._keeper, self.manifest
        new = Manifest(
            trust_domain=manifest.trust_domain,
            sequence=manifest.sequence,
            last_number=last_number or manifest.last_number,
            slots=slots,
        )
        loaded = load_slots(new, keeper._plan.trust_domain)
        if trusted_roots(loaded) != keeper.roots:
            new = new.model_copy(update={"sequence": manifest.sequence + 1})
        authority = keeper._load(loaded, new.sequence)
        keeper._state.store_manifest(new)
        keeper._manifest, keeper._slots, keeper._authority = new, loaded, authority
        self._is_put = True

    def __enter__(self) -> _Change:
        """Keep the others out, and see what they did last."""
        self._keeper._lock.acquire()
        try:
            self._exclusion.__enter__()
            manifest = self._keeper._state.load_manifest()
            if manifest is not None and manifest != self._keeper._manifest:
                self._keeper._take(manifest)
        except BaseException:
            self._keeper._lock.release()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Let the others in again, and tell those who listen."""
        try:
            self._exclusion.__exit__(None, None, None)
        finally:
            self._keeper._lock.release()
        if self._is_put:
            self._keeper._announce()


def _is_renewal_due(slot: Slot, now: datetime) -> bool:
    """Return whether a third or less of an intermediate's life is left, and a new one helps."""
    intermediate, root = slot.intermediate, slot.root
    # A plugged-in signer is renewed by whoever plugged it in.
    is_own = slot.entry.root.key is not None
    # Where its end is the root's end, a new one would live no longer.
    if not is_own or intermediate.not_valid_after_utc >= root.not_valid_after_utc:
        return False
    life = intermediate.not_valid_after_utc - intermediate.not_valid_before_utc
    return intermediate.not_valid_after_utc - now <= life / _RENEW_AT_REMAINING


def check_in_force(certificate: x509.Certificate, tier: str, now: datetime) -> None:
    """Return when an authority's certificate counts at `now`.

    Raises:
        AuthorityExpiredError: it does not.
    """
    if now > certificate.not_valid_after_utc:
        raise AuthorityExpiredError(
            f"the {tier} expired at {certificate.not_valid_after_utc.isoformat()}",
            help="see `meshwarden ca status`; a prepared authority can be activated",
        )
    if now < certificate.not_valid_before_utc:
        raise AuthorityExpiredError(
            f"the {tier} is not valid before {certificate.not_valid_before_utc.isoformat()}",
            help="check the machine's clock",
        )
