"""What may be issued, as of one revision: entries and denials, held in memory.

INVARIANT: a certificate is recorded only under the revision that it was checked against. The
recorder compares the two within the transaction of the row; where they differ, it is checked anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.caller import Caller
from ca.entries import EntryIndex, RegistrationEntry, load_entries
from ca.ledger import format_serial
from ca.revocations import DeniedKind, Revocation, load_revocations
from ca.store import Store, counter_value
from ca.store_schema import REGISTRY_REVISION
from identity.spiffe_id import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryState:
    """Entries and denials that belong together."""

    revision: int
    entries: EntryIndex
    denied: dict[tuple[DeniedKind, str], Revocation]

    def grants(
        self, caller: Caller, now: datetime
    ) -> tuple[tuple[SpiffeId, RegistrationEntry], ...]:
        """Return each ID that `caller` may hold now, with the entry that gives it, oldest first."""
        return tuple(
            (spiffe_id, entry)
            for spiffe_id, entry in self.entries.granted(caller, now)
            if self.denial(DeniedKind.SPIFFE_ID, str(spiffe_id), now) is None
        )

    def denial(self, kind: DeniedKind, value: str, now: datetime) -> Revocation | None:
        """Return the denial of a value that is in force, or None."""
        found = self.denied.get((kind, value))
        return found if found is not None and found.is_in_force(now) else None

    def denial_of(
        self, spiffe_id: SpiffeId, leaf: x509.Certificate, now: datetime
    ) -> Revocation | None:
        """Return the denial that an SVID falls under, by its serial, key or ID, or None."""
        if not self.denied:
            return None
        named = (
            (DeniedKind.SERIAL, format_serial(leaf.serial_number)),
            (DeniedKind.KEY, _key_digest(leaf)),
            (DeniedKind.SPIFFE_ID, str(spiffe_id)),
        )
        return next(filter(None, (self.denial(kind, value, now) for kind, value in named)), None)


class Registry:
    """The newest state that was read; any thread may ask."""

    def __init__(self, store: Store) -> None:
        """Read the state once.

        Raises:
            StoreError: the ledger cannot be read.
        """
        self._store = store
        self._lock = Lock()
        self._state = _read(store)
        self._listeners: list[Callable[[], None]] = []

    @property
    def state(self) -> RegistryState:
        """The newest state that was read; it may be older than the ledger's."""
        return self._state

    def refresh(self, *, after: int | None = None) -> RegistryState:
        """Read the ledger's state if it is not yet beyond revision `after`, and return it.

        Raises:
            StoreError: the ledger cannot be read; the state stays as it was.
        """
        before = self._state
        with self._lock:
            if after is None or self._state.revision <= after:
                self._state = _read(self._store)
            state = self._state
        if state.revision != before.revision:
            for listener in self._listeners:
                listener()
        return state

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change that was read, in the thread that read it."""
        self._listeners.append(listener)

    def refresh_if_changed(self) -> bool:
        """Read the state anew where another process has changed it; return whether it did.

        Raises:
            StoreError: the ledger cannot be read; the state stays as it was.
        """
        with self._store.read() as connection:
            revision = counter_value(connection, REGISTRY_REVISION)
        if revision == self._state.revision:
            return False
        self.refresh()
        return True


def _key_digest(leaf: x509.Certificate) -> str:
    """Return the digest of a certificate's key, of whatever kind it is."""
    spki = leaf.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def _read(store: Store) -> RegistryState:
    """Return the state of the ledger; what changes meanwhile shows in a later revision."""
    with store.read() as connection:
        # The revision first: a change between the statements makes the state newer than its
        # number, and so it is read once more, never trusted for longer.
        revision = counter_value(connection, REGISTRY_REVISION)
        entries = EntryIndex(load_entries(connection))
        denied = {(each.kind, each.value): each for each in load_revocations(connection)}
    return RegistryState(revision=revision, entries=entries, denied=denied)
