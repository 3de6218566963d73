"""An issuance's line on the audit chain, made of its row, and the row that a line gives again.

INVARIANT: a line holds all of its row, so a ledger that lost the row gets it back whole. Lines that
were written before they held the certificate give a row without it; its digest is there.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from audit.record import AuditEvent, EventName
from ca.ledger import LedgerRow, LedgerValues

_TEXTS: Final = (
    *("kind", "serial", "spiffe_id", "authority", "entry_id"),
    *("spki_sha256", "der_sha256", "csr_sha256", "method"),
)


def issuance_event(event: AuditEvent, row: LedgerValues) -> AuditEvent:
    """Return `event` with what its row tells: `details` held only what the row does not."""
    serial, kind, spiffe_id, authority, entry_id, spki, digest, der, *rest = row
    csr, method, evidence, _node, _issued_at, not_before, not_after = rest
    details: dict[str, object] = {
        "kind": kind,
        "serial": serial,
        "spiffe_id": spiffe_id,
        "authority": authority,
        "entry_id": entry_id,
        "spki_sha256": spki,
        "der_sha256": digest,
        "csr_sha256": csr,
        "method": method,
        "evidence": _read_evidence(str(evidence)),
        "not_before": not_before,
        "not_after": not_after,
        **event.details,
    }
    if isinstance(der, bytes) and der:
        details["der"] = b64encode(der).decode("ascii")
    return AuditEvent(event=EventName.SVID_ISSUED, at=event.at, details=details)


def issuance_row(document: Mapping[str, Any]) -> LedgerRow:
    """Return the row that a line tells of.

    Raises:
        KeyError, TypeError, ValueError: it is no issuance's line.
    """
    details = document["details"]
    return LedgerRow(
        **{name: str(details[name]) for name in _TEXTS},
        evidence=dict(details["evidence"]),
        der=b64decode(details.get("der", ""), validate=True),
        node=str(document["node"]),
        issued_at=datetime.fromisoformat(str(document["at"])),
        not_before=datetime.fromtimestamp(details["not_before"], UTC),
        not_after=datetime.fromtimestamp(details["not_after"], UTC),
    )


@lru_cache(maxsize=256)
def _read_evidence(text: str) -> Mapping[str, str]:
    """Return what a row's column holds as JSON; one caller's is the same again and again."""
    evidence: Mapping[str, str] = json.loads(text)
    return evidence
