"""The intermediates that our roots have signed, on record like all that is signed here."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import datetime

from cryptography.hazmat.primitives import serialization

from audit.record import AuditEvent, EventName
from ca.authority import AuthorityKeeper
from ca.caller import Method
from ca.csr import spki_digest
from ca.errors import DuplicateSerialError
from ca.key_kinds import check_public_key
from ca.ledger import (
    AUTHORITY_KIND,
    LedgerFilter,
    LedgerRow,
    find_rows,
    format_serial,
    row_to_values,
)
from ca.profile import key_identifier
from ca.recorder import Recorder, Recording
from ca.slots import Slot
from ca.store import Store
from identity.spiffe_id import TrustDomain


def record_intermediates(
    keeper: AuthorityKeeper, store: Store, recorder: Recorder, *, node: str, now: datetime
) -> None:
    """Put the intermediates in force into ledger and audit chain, those that are not there yet.

    Raises:
        StoreError: one could not be recorded.
    """
    for slot in keeper.slots:
        # A plugged-in signer was signed, and is on record, elsewhere.
        if slot.entry.root.key is None:
            continue
        row = _row(slot, keeper.plan.trust_domain, node, now)
        with store.read() as connection:
            if find_rows(connection, LedgerFilter(serial=row.serial)):
                continue
        details = {
            "step": "intermediate",
            "authority": slot.number,
            "serial": row.serial,
            "der_sha256": row.der_sha256,
            "not_after": int(row.not_after.timestamp()),
        }
        event = AuditEvent(event=EventName.AUTHORITY_CHANGED, at=now.timestamp(), details=details)
        # Of two replicas that share authorities one is faster.
        with suppress(DuplicateSerialError):
            recorder.record(Recording(event=event, row=row_to_values(row))).result()


def serials_and_keys(slot: Slot) -> frozenset[str]:
    """Return what must not be revoked while `slot` signs: its authorities' serials and keys."""
    path = (slot.root, slot.intermediate, *slot.between)
    return frozenset(format_serial(each.serial_number) for each in path) | frozenset(
        spki_digest(check_public_key(each.public_key())) for each in path
    )


def _row(slot: Slot, trust_domain: TrustDomain, node: str, now: datetime) -> LedgerRow:
    """Return the row of a slot's intermediate."""
    certificate = slot.intermediate
    der = certificate.public_bytes(serialization.Encoding.DER)
    return LedgerRow(
        kind=AUTHORITY_KIND,
        serial=format_serial(certificate.serial_number),
        spiffe_id=f"spiffe://{trust_domain}",
        authority=key_identifier(slot.root).hex(),
        spki_sha256=spki_digest(check_public_key(certificate.public_key())),
        der_sha256=hashlib.sha256(der).hexdigest(),
        der=der,
        method=Method.AUTHORITY.value,
        node=node,
        issued_at=now,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )
