"""What the command line may ask of the records: JSON in, JSON out, one function a command."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from ca.books import Books
from ca.caller import Caller, Method
from ca.clock import Clock
from ca.entries import RegistrationEntry
from ca.errors import IssueRefusedError
from ca.issued import SigningRequest
from ca.ledger import AUTHORITY_KIND, LedgerFilter, LedgerRow, parse_serial
from ca.refusal import Refusal
from ca.revocations import DeniedKind, RevocationReason
from ca.svid import to_pem
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_Request: TypeAlias = Mapping[str, Any]
_Answer: TypeAlias = dict[str, Any]

RECORD_COMMANDS: Final = frozenset(
    {
        "entries.add",
        "entries.list",
        "entries.remove",
        "token",
        "list",
        "revoke",
        "lift",
        "sign-csr",
        "issue",
    }
)
"""The names of the commands below."""


def record_commands(books: Books, clock: Clock) -> dict[str, Callable[[_Request], _Answer]]:
    """Return the commands over open records; a CaError refuses one."""
    desk = books.desk

    def add_entry(request: _Request) -> _Answer:
        entry = _entry(request, clock())
        desk.add_entry(entry)
        return show_entry(entry)

    def remove_entry(request: _Request) -> _Answer:
        desk.remove_entry(str(request["entryId"]))
        return {}

    def revoke(request: _Request) -> _Answer:
        reason = RevocationReason(request.get("reason", RevocationReason.UNSPECIFIED))
        made = desk.revoke(DeniedKind(request["kind"]), str(request["value"]), reason)
        return {"kind": made.kind.value, "value": made.value, "published": books.publish_error}

    def lift(request: _Request) -> _Answer:
        desk.lift(DeniedKind(request["kind"]), str(request["value"]))
        return {}

    def token(request: _Request) -> _Answer:
        lifetime = timedelta(seconds=float(request["lifetimeSeconds"]))
        return {"token": desk.make_token(str(request["spiffeId"]), lifetime)}

    return {
        "entries.add": add_entry,
        "entries.list": lambda _: {"entries": [show_entry(each) for each in desk.entries()]},
        "entries.remove": remove_entry,
        "token": token,
        "list": lambda request: {
            "issued": [show_row(row) for row in desk.find(_filter(request, clock()))]
        },
        "revoke": revoke,
        "lift": lift,
        "sign-csr": lambda request: _sign(books, request),
        "issue": lambda request: _issue(books, request),
    }


def show_entry(entry: RegistrationEntry) -> _Answer:
    """Return an entry as JSON."""
    return {
        "entryId": entry.entry_id,
        "spiffeId": entry.spiffe_id,
        "selectors": sorted(entry.selectors),
        "lifetimeSeconds": entry.lifetime and int(entry.lifetime.total_seconds()),
        "dnsNames": list(entry.dns_names),
        "hint": entry.hint,
        "createdAt": _moment(entry.created_at),
        "expiresAt": entry.expires_at and _moment(entry.expires_at),
    }


def show_row(row: LedgerRow) -> _Answer:
    """Return a row of the ledger as JSON, without the certificate."""
    return {
        "serial": row.serial,
        "kind": row.kind,
        "spiffeId": row.spiffe_id,
        "entryId": row.entry_id,
        "authority": row.authority,
        "method": row.method,
        "evidence": dict(row.evidence),
        "node": row.node,
        "issuedAt": _moment(row.issued_at),
        "notBefore": _moment(row.not_before),
        "notAfter": _moment(row.not_after),
        "sha256": row.der_sha256,
        "spkiSha256": row.spki_sha256,
    }


def _sign(books: Books, request: _Request) -> _Answer:
    """Sign a CSR on the operator's word."""
    spiffe_id = _id(request["spiffeId"])
    caller = Caller(method=Method.OPERATOR, granted=spiffe_id)
    wanted = SigningRequest(
        csr=str(request["csr"]).encode(),
        spiffe_id=spiffe_id,
        lifetime=_seconds(request.get("lifetimeSeconds")),
    )
    issued = books.issuance.sign(wanted, caller)
    return {
        "serial": issued.serial,
        "chain": issued.chain_pem().decode(),
        "roots": to_pem(issued.roots).decode(),
        "expiresAt": _moment(issued.expires_at),
    }


def _issue(books: Books, request: _Request) -> _Answer:
    """Issue a certificate with a key of its own on the operator's word."""
    spiffe_id = _id(request["spiffeId"])
    svid = books.issuance.issue(
        spiffe_id,
        Caller(method=Method.OPERATOR, granted=spiffe_id),
        lifetime=_seconds(request.get("lifetimeSeconds")),
        dns_names=tuple(request.get("dnsNames", ())),
    )
    return {
        "serial": f"{svid.leaf.serial_number:040x}",
        "chain": svid.chain_pem().decode(),
        "key": svid.key_pem().decode(),
        "expiresAt": _moment(svid.expires_at),
    }


def _entry(request: _Request, now: datetime) -> RegistrationEntry:
    """Return the entry that a request describes; the desk checks it."""
    expires_at = request.get("expiresAt")
    return RegistrationEntry(
        entry_id=str(request.get("entryId") or secrets.token_hex(8)),
        spiffe_id=str(request["spiffeId"]),
        selectors=frozenset(map(str, request["selectors"])),
        created_at=now,
        lifetime=_seconds(request.get("lifetimeSeconds")),
        dns_names=tuple(map(str, request.get("dnsNames", ()))),
        hint=str(request.get("hint", "")),
        expires_at=_time(expires_at) if expires_at else None,
    )


def _filter(request: _Request, now: datetime) -> LedgerFilter:
    """Return what a request asks of the ledger."""
    serial = str(request.get("serial") or "")
    try:
        serial = parse_serial(serial) if serial else ""
    except ValueError:
        raise IssueRefusedError(f"`{serial[:256]}` is not a hexadecimal serial number") from None
    since, until = request.get("since"), request.get("until")
    return LedgerFilter(
        spiffe_id=str(request.get("spiffeId") or ""),
        serial=serial,
        issued_since=_time(since) if since else None,
        issued_until=_time(until) if until else None,
        is_in_force_at=now if request.get("inForce") else None,
        kinds=(AUTHORITY_KIND,) if request.get("authorities") else ("x509", "jwt"),
        limit=int(request.get("limit") or 100),
    )


def _id(text: object) -> SpiffeId:
    """Return a SPIFFE ID that an operator wrote."""
    try:
        return SpiffeId.parse(str(text))
    except SpiffeIdError as exc:
        raise IssueRefusedError(str(exc), reason=Refusal.ID_MALFORMED) from exc


def _seconds(value: object) -> timedelta | None:
    """Return a lifetime, or None where none was asked."""
    return timedelta(seconds=float(str(value))) if value else None


def _time(text: object) -> datetime:
    """Return a moment that an operator wrote (RFC 3339; without a zone it is UTC)."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError:
        raise IssueRefusedError(
            f"`{str(text)[:64]}` is not a date and time", help="as `2026-11-01T00:00:00Z`"
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _moment(at: datetime) -> str:
    """Return a moment as text."""
    return at.astimezone(UTC).isoformat(timespec="seconds")
