"""What the ledger knows of a rotation: how long a root is needed, and who has not heard of one.

Without the ledger the longest life of a leaf has to be assumed. With it, the last leaf that the
retired authority signed is known by name. And callers of the signing endpoints have no stream: they
learn of a new root when they come back for their next certificate, or when theirs has ended.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from cryptography import x509
from sqlalchemy import and_, func, or_, select

from ca.caller import Method
from ca.errors import StoreError
from ca.ledger import from_microseconds, to_microseconds
from ca.profile import key_identifier
from ca.slots import Slot
from ca.store import Store
from ca.store_schema import ISSUANCE

# BUDGET: how long a signature of before a change may take to its record, and at the very most.
_SETTLED_AFTER = timedelta(seconds=2)
_RECORDED_WITHIN = timedelta(seconds=60)
_WITHOUT_A_STREAM = (
    Method.JOIN_TOKEN.value,
    Method.X509_SVID.value,
    Method.K8S_SERVICE_ACCOUNT.value,
)


class LastLeaf:
    """Looks for the end of the last leaf that an authority before the active one signed."""

    def __init__(self, store: Store, longest: timedelta) -> None:
        """Look into `store`; no leaf lives longer than `longest`."""
        self._store = store
        self._longest = longest

    def ends_at(self, retired: Slot, active: x509.Certificate, now: datetime) -> datetime | None:
        """Return the end of the last leaf or token that is not of `active`, None when unknown."""
        changed_at, columns = retired.entry.since, ISSUANCE.c
        if now < changed_at + _SETTLED_AFTER:
            return None
        is_old_leaf = and_(
            columns.kind == "x509",
            columns.authority != key_identifier(active).hex(),
            columns.issued_at <= to_microseconds(changed_at + _RECORDED_WITHIN),
        )
        # A token cites a key of its own; it is as old as its record.
        is_old_token = and_(
            columns.kind == "jwt",
            columns.issued_at <= to_microseconds(changed_at + _SETTLED_AFTER),
        )
        query = select(func.max(columns.not_after)).where(
            columns.issued_at >= to_microseconds(now - self._longest),
            columns.issued_at <= to_microseconds(changed_at + _RECORDED_WITHIN),
            or_(is_old_leaf, is_old_token),
        )
        try:
            with self._store.read() as connection:
                return _moment(connection.scalar(query))
        except StoreError:
            return None

    def unheard_until(self, published_at: datetime, now: datetime) -> datetime | None:
        """Return when the last certificate ends that a caller without a stream got before then.

        None when there is none; roots that were published at `published_at` came with every later.

        Raises:
            StoreError: the ledger cannot be asked.
        """
        columns = ISSUANCE.c
        query = select(func.max(columns.not_after)).where(
            columns.kind == "x509",
            columns.method.in_(_WITHOUT_A_STREAM),
            columns.issued_at >= to_microseconds(now - self._longest),
            columns.issued_at <= to_microseconds(published_at + _SETTLED_AFTER),
        )
        with self._store.read() as connection:
            return _moment(connection.scalar(query))


def _moment(seconds: Any) -> datetime | None:
    """Return what the ledger keeps as seconds since the epoch."""
    return None if seconds is None else from_microseconds(int(seconds) * 1_000_000)
