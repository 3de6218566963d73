"""Renewal: who shows an SVID of ours over mTLS may have the next one of the same ID.

TLS proves that the caller holds the leaf's key; here it is shown that the leaf is ours, in force,
on record, and not denied. Whether the ID may still be had is settled by entries, as for everyone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ca.caller import Caller, Method
from ca.clock import Clock
from ca.errors import AttestationError
from ca.ledger import LedgerFilter, find_rows, format_serial
from ca.refusal import Refusal
from ca.registry import Registry
from ca.store import Store
from identity.svid_fault import SvidRefusal
from identity.trust_bundle import TrustBundle
from identity.x509_svid import verify_svid


@dataclass(frozen=True, slots=True)
class PeerChain:
    """The evidence: the chain (DER, leaf first) of a TLS client that proved to hold its key."""

    chain: Sequence[bytes] = field(repr=False)


class SvidAttestor:
    """Proves who shows an SVID of this CA."""

    def __init__(
        self,
        bundle: Callable[[], TrustBundle],
        store: Store,
        registry: Registry,
        clock: Clock,
    ) -> None:
        """Verify against `bundle`, the trust domain's own roots at this moment."""
        self._bundle = bundle
        self._store = store
        self._registry = registry
        self._clock = clock

    def __call__(self, evidence: PeerChain) -> Caller:
        """Return the caller; blocks for the ledger.

        Raises:
            AttestationError: the SVID is not ours, not in force, or denied.
            StoreError: the ledger cannot be asked.
        """
        now = self._clock()
        verdict = verify_svid(evidence.chain, self._bundle(), now)
        if isinstance(verdict, SvidRefusal):
            raise AttestationError(
                f"the SVID is not believed: {verdict.detail}", reason=Refusal.SVID_INVALID
            )
        leaf = verdict.path[0]
        serial = format_serial(leaf.serial_number)
        self._check_record(evidence.chain[0], serial)
        denial = self._registry.state.denial_of(verdict.spiffe_id, leaf, now)
        if denial is not None:
            raise AttestationError(
                f"the SVID is denied by its {denial.kind.value}", reason=Refusal.CALLER_REVOKED
            )
        return Caller(
            method=Method.X509_SVID,
            selectors=frozenset({f"x509_svid:id:{verdict.spiffe_id}"}),
            holds=verdict.spiffe_id,
            leaf=leaf,
            evidence={"serial": serial, "spiffe_id": str(verdict.spiffe_id)},
        )

    def _check_record(self, der: bytes, serial: str) -> None:
        """Refuse a leaf that the ledger does not know: whoever signed it, we did not."""
        with self._store.read() as connection:
            rows = find_rows(connection, LedgerFilter(serial=serial))
        digest = hashlib.sha256(der).hexdigest()
        if not any(row.der_sha256 == digest for row in rows):
            raise AttestationError("the SVID is not on record", reason=Refusal.SVID_UNKNOWN)
