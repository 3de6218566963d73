"""What is denied before its time: a certificate, a key, or a SPIFFE ID.

Short lives are the rule; this is for the cases where they are too long. A revocation stops renewal
and issuance at once, stands on the CRL where it names a certificate, and is on the deny list that
the authorizer reads (`identity.deny_list`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select

from ca.errors import IssueRefusedError
from ca.ledger import from_microseconds, parse_serial, to_microseconds
from ca.refusal import Refusal
from ca.store import bump
from ca.store_schema import REGISTRY_REVISION, REVOCATION
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_VERSION: Final = 1


class DeniedKind(StrEnum):
    """What a revocation names."""

    SERIAL = "serial"
    KEY = "spki_sha256"
    SPIFFE_ID = "spiffe_id"


class RevocationReason(StrEnum):
    """Why; the words of RFC 5280 §5.3.1 that can befall a workload."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One denial; `expires_at` of None holds until it is lifted."""

    kind: DeniedKind
    value: str
    revoked_at: datetime
    reason: RevocationReason = RevocationReason.UNSPECIFIED
    expires_at: datetime | None = None

    def is_in_force(self, now: datetime) -> bool:
        """Return whether the denial still counts."""
        return self.expires_at is None or now <= self.expires_at


def canonical_value(kind: DeniedKind, text: str) -> str:
    """Return what a person wrote as the ledger spells it.

    Raises:
        IssueRefusedError: it is not a value of that kind.
    """
    try:
        match kind:
            case DeniedKind.SERIAL:
                return parse_serial(text)
            case DeniedKind.KEY:
                lower = text.replace(":", "").lower()
                if not _SHA256.fullmatch(lower):
                    raise ValueError("not a digest")
                return lower
            case DeniedKind.SPIFFE_ID:
                return str(SpiffeId.parse(text))
    except (ValueError, SpiffeIdError) as exc:
        what = {
            DeniedKind.SERIAL: "a hexadecimal serial number",
            DeniedKind.KEY: "a SHA-256 of 64 hexadecimal digits",
            DeniedKind.SPIFFE_ID: "a SPIFFE ID",
        }[kind]
        raise IssueRefusedError(
            f"`{text[:256]}` is not {what}", reason=Refusal.BAD_REQUEST
        ) from exc


def insert_revocation(connection: Connection, revocation: Revocation) -> bool:
    """Write a denial within the caller's transaction; return False when it stood already."""
    bump(connection, REGISTRY_REVISION)
    if is_denied(connection, revocation.kind, revocation.value):
        return False
    connection.execute(
        insert(REVOCATION).values(
            kind=revocation.kind.value,
            value=revocation.value,
            reason=revocation.reason.value,
            revoked_at=to_microseconds(revocation.revoked_at),
            expires_at=int(revocation.expires_at.timestamp()) if revocation.expires_at else 0,
        )
    )
    return True


def is_denied(connection: Connection, kind: DeniedKind, value: str) -> bool:
    """Return whether there is a denial, lapsed or not."""
    columns = REVOCATION.c
    where = (columns.kind == kind.value, columns.value == value)
    return connection.execute(select(columns.value).where(*where)).first() is not None


def delete_revocation(connection: Connection, kind: DeniedKind, value: str) -> bool:
    """Lift a denial within the caller's transaction; return whether there was one."""
    bump(connection, REGISTRY_REVISION)
    columns = REVOCATION.c
    found = connection.execute(
        delete(REVOCATION).where(columns.kind == kind.value, columns.value == value)
    )
    return found.rowcount > 0


def load_revocations(connection: Connection) -> tuple[Revocation, ...]:
    """Return every denial, the oldest first, the lapsed ones too."""
    query = select(REVOCATION).order_by(REVOCATION.c.revoked_at, REVOCATION.c.value)
    return tuple(_revocation(found) for found in connection.execute(query))


def encode_deny_list(revocations: Iterable[Revocation], *, revision: int, now: datetime) -> bytes:
    """Return the deny list document that the authorizer reads (`identity.deny_list`)."""
    in_force = [each for each in revocations if each.is_in_force(now)]
    document = {
        "version": _VERSION,
        "revision": revision,
        "made_at": now.astimezone(UTC).isoformat(timespec="seconds"),
        "denied": [
            {
                "kind": each.kind.value,
                "value": each.value,
                "reason": each.reason.value,
                "until": each.expires_at.isoformat(timespec="seconds") if each.expires_at else None,
            }
            for each in in_force
        ],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _revocation(found: Row[Any]) -> Revocation:
    """Return what the columns hold as a denial."""
    return Revocation(
        kind=DeniedKind(found.kind),
        value=found.value,
        reason=RevocationReason(found.reason),
        revoked_at=from_microseconds(found.revoked_at),
        expires_at=datetime.fromtimestamp(found.expires_at, UTC) if found.expires_at else None,
    )
