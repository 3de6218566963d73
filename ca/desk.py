"""What an operator does to the records: entries, join tokens, revocations. Each act is recorded.

Every act is written to the ledger first and to the audit chain after; where the second fails, the
act stands and the operator is told that its line is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from audit.record import AuditEvent, EventName
from ca.acts import ACT, count_act
from ca.clock import Clock
from ca.entries import RegistrationEntry, check_entry, delete_entry, insert_entry
from ca.errors import IssueRefusedError
from ca.join_tokens import delete_old_tokens, entry_for_token, insert_token
from ca.ledger import LedgerFilter, LedgerRow, find_rows
from ca.recorder import Recorder, Recording
from ca.refusal import Refusal
from ca.registry import Registry
from ca.revocations import (
    DeniedKind,
    Revocation,
    RevocationReason,
    canonical_value,
    delete_revocation,
    insert_revocation,
)
from ca.store import Store
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId, TrustDomain

_KEEP_TOKENS = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskParts:
    """What the desk needs; `published` is called after every change of what is denied.

    `node` names this replica, as on its audit chain; `in_use` returns the serials and keys of the
    authority that signs now.
    """

    trust_domain: TrustDomain
    store: Store
    registry: Registry
    recorder: Recorder
    clock: Clock
    published: Callable[[], None]
    node: str
    in_use: Callable[[], Collection[str]] = frozenset


class Desk:
    """The operator's acts; each blocks until it is recorded."""

    def __init__(self, parts: DeskParts) -> None:
        """Act on `parts`."""
        self._parts = parts

    def add_entry(self, entry: RegistrationEntry) -> None:
        """Register an entry; it counts from now on.

        Raises:
            IssueRefusedError: it makes no sense, or its ID is taken.
            StoreError: it could not be written or recorded.
        """
        parts = self._parts
        check_entry(entry, parts.trust_domain)
        with parts.store.write() as connection:
            insert_entry(connection, entry)
            act = count_act(connection, parts.node)
        parts.registry.refresh()
        self._record(
            EventName.ENTRY_ADDED,
            {
                ACT: act,
                "entry_id": entry.entry_id,
                "spiffe_id": entry.spiffe_id,
                "selectors": sorted(entry.selectors),
            },
        )

    def remove_entry(self, entry_id: str) -> None:
        """Remove an entry; what it gave out ends with its certificates.

        Raises:
            IssueRefusedError: there is none of this ID.
            StoreError: it could not be written or recorded.
        """
        parts = self._parts
        with parts.store.write() as connection:
            is_gone = delete_entry(connection, entry_id)
            act = count_act(connection, parts.node) if is_gone else 0
        parts.registry.refresh()
        if not is_gone:
            raise IssueRefusedError(
                f"there is no entry `{entry_id[:256]}`",
                help="`meshwarden ca entries list` begins each line with its entry",
            )
        self._record(EventName.ENTRY_REMOVED, {ACT: act, "entry_id": entry_id})

    def entries(self) -> tuple[RegistrationEntry, ...]:
        """Return every entry, the oldest first.

        Raises:
            StoreError: the ledger cannot be read.
        """
        return self._parts.registry.refresh().entries.entries

    def make_token(self, text: str, lifetime: timedelta) -> str:
        """Return a new join token for the SPIFFE ID `text`, and let its holder renew.

        Raises:
            IssueRefusedError: `text` is no workload's ID of this trust domain.
            StoreError: it could not be written or recorded.
        """
        parts, now = self._parts, self._parts.clock()
        try:
            spiffe_id = SpiffeId.parse(text)
        except SpiffeIdError as exc:
            raise IssueRefusedError(str(exc), reason=Refusal.ID_MALFORMED) from exc
        if lifetime <= timedelta(0):
            raise IssueRefusedError("the lifetime is not positive", reason=Refusal.LIFETIME)
        entry = entry_for_token(spiffe_id, now=now)
        check_entry(entry, parts.trust_domain)
        with parts.store.write() as connection:
            delete_old_tokens(connection, before=now - _KEEP_TOKENS)
            token = insert_token(connection, spiffe_id, now=now, lifetime=lifetime)
        if entry.entry_id not in {each.entry_id for each in self.entries()}:
            self.add_entry(entry)
        self._record(
            EventName.JOIN_TOKEN_MADE,
            {"spiffe_id": text, "lifetime_seconds": int(lifetime.total_seconds())},
        )
        return token

    def revoke(
        self,
        kind: DeniedKind,
        text: str,
        reason: RevocationReason = RevocationReason.UNSPECIFIED,
    ) -> Revocation:
        """Deny a certificate, a key or an ID from now on; a certificate until its own end.

        Raises:
            IssueRefusedError: it is no such value, or no certificate of this serial is on record.
            StoreError: it could not be written or recorded.
        """
        parts, now = self._parts, self._parts.clock()
        value = canonical_value(kind, text)
        if value in parts.in_use():
            raise IssueRefusedError(
                "this is the authority that signs now", help="rotate first, then revoke the old one"
            )
        expires_at = None
        if kind is DeniedKind.SERIAL:
            rows = self.find(LedgerFilter(serial=value))
            if not rows:
                raise IssueRefusedError(f"no certificate `{value}` is on record")
            expires_at = rows[0].not_after
        revocation = Revocation(
            kind=kind, value=value, revoked_at=now, reason=reason, expires_at=expires_at
        )
        with parts.store.write() as connection:
            is_new = insert_revocation(connection, revocation)
            act = count_act(connection, parts.node) if is_new else 0
        parts.registry.refresh()
        # Before the line, which the disk may refuse: authorizers have to learn of it all the same.
        parts.published()
        if is_new:
            details = {ACT: act, "kind": kind.value, "value": value, "reason": reason.value}
            self._record(EventName.REVOKED, details)
        return revocation

    def lift(self, kind: DeniedKind, text: str) -> None:
        """Deny no longer; an ID or a key only, a certificate stays revoked.

        Raises:
            IssueRefusedError: it is not denied, or is a certificate.
            StoreError: it could not be written or recorded.
        """
        if kind is DeniedKind.SERIAL:
            # RFC 5280 §5.3.1: only a hold may be lifted, and this house has no holds.
            raise IssueRefusedError("a revoked certificate stays revoked")
        parts, value = self._parts, canonical_value(kind, text)
        with parts.store.write() as connection:
            was_denied = delete_revocation(connection, kind, value)
            act = count_act(connection, parts.node) if was_denied else 0
        parts.registry.refresh()
        if not was_denied:
            raise IssueRefusedError(f"`{value}` is not denied")
        parts.published()
        self._record(EventName.REVOCATION_LIFTED, {ACT: act, "kind": kind.value, "value": value})

    def record_rotation(self, details: Mapping[str, object]) -> None:
        """Put a step of a rotation on the audit chain.

        Raises:
            StoreError: it could not be written.
        """
        self._record(EventName.AUTHORITY_CHANGED, details)

    def record_catching_up(self, words: str) -> None:
        """Put on the audit chain that the ledger was older than it.

        Raises:
            StoreError: it could not be written.
        """
        self._record(EventName.RESUME, {"of": "ca", "cause": words})

    def find(self, wanted: LedgerFilter) -> tuple[LedgerRow, ...]:
        """Return the ledger's rows that fit, the newest first.

        Raises:
            StoreError: the ledger cannot be read.
        """
        with self._parts.store.read() as connection:
            return find_rows(connection, wanted)

    def _record(self, name: EventName, details: Mapping[str, object]) -> None:
        """Put an act on the audit chain and wait for it."""
        event = AuditEvent(event=name, at=self._parts.clock().timestamp(), details=details)
        self._parts.recorder.record(Recording(event=event)).result()
