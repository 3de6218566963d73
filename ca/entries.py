"""Registration entries: who may hold which SPIFFE ID.

An entry applies to a caller when all its selectors are among the caller's, as in SPIRE. Its ID may
hold `{ns}` and `{sa}`, which stand for the namespace and service account that a Kubernetes token
proved, so that one entry serves a whole cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Connection, Row, delete, insert, select
from sqlalchemy.exc import IntegrityError

from ca.caller import Caller, Method
from ca.errors import IssueRefusedError
from ca.ledger import from_microseconds, to_microseconds
from ca.refusal import Refusal
from ca.store import bump
from ca.store_schema import ENTRY, REGISTRY_REVISION
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId, TrustDomain

_SELECTOR: Final = re.compile(r"[a-z0-9_]+:[a-z0-9_.-]+:[!-~]{1,2100}", re.ASCII)
_ENTRY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII
)
# SPIFFE Workload API §4.2: a hint is at most 1024 bytes long.
_MAX_HINT_BYTES: Final = 1024
_PLACES: Final = {"{ns}": "k8s:ns:", "{sa}": "k8s:sa:"}
_ANY_SEGMENT: Final = "[A-Za-z0-9._-]+"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationEntry:
    """One entry. A `lifetime` of None means the CA's own; `expires_at` of None is never."""

    entry_id: str
    spiffe_id: str
    selectors: frozenset[str]
    created_at: datetime
    lifetime: timedelta | None = None
    dns_names: tuple[str, ...] = ()
    hint: str = ""
    expires_at: datetime | None = None

    def is_in_force(self, now: datetime) -> bool:
        """Return whether the entry still counts."""
        return self.expires_at is None or now < self.expires_at

    def id_for(self, caller: Caller) -> SpiffeId | None:
        """Return the ID that this entry gives to `caller`, or None when it gives none."""
        if caller.method is Method.X509_SVID:
            # Renewal: the caller has shown that it holds the ID; the entry has to be there still.
            return caller.holds if caller.holds and self.covers(caller.holds) else None
        if not self.selectors <= caller.selectors:
            return None
        text = self.spiffe_id
        for place, prefix in _PLACES.items():
            if place not in text:
                continue
            values = [each[len(prefix) :] for each in caller.selectors if each.startswith(prefix)]
            if len(values) != 1:
                return None
            text = text.replace(place, values[0])
        return _parsed(text)

    def covers(self, spiffe_id: SpiffeId) -> bool:
        """Return whether this entry can give out `spiffe_id`, to whomever."""
        if "{" not in self.spiffe_id:
            return self.spiffe_id == str(spiffe_id)
        pattern = re.escape(self.spiffe_id)
        for place in _PLACES:
            pattern = pattern.replace(re.escape(place), _ANY_SEGMENT)
        return re.fullmatch(pattern, str(spiffe_id), re.ASCII) is not None


def check_entry(entry: RegistrationEntry, trust_domain: TrustDomain) -> None:
    """Return when `entry` makes sense in `trust_domain`.

    Raises:
        IssueRefusedError: naming the first thing that does not.
    """
    if not _ENTRY_ID.fullmatch(entry.entry_id):
        raise IssueRefusedError("an entry's ID holds 1 to 128 letters, digits, `.`, `_` and `-`")
    sample = entry.spiffe_id
    for place in _PLACES:
        sample = sample.replace(f"/{place}", "/x")
    spiffe_id = _parsed(sample)
    if spiffe_id is None or not spiffe_id.path:
        raise IssueRefusedError(
            f"`{entry.spiffe_id[:256]}` is not a workload's SPIFFE ID", reason=Refusal.ID_MALFORMED
        )
    if spiffe_id.trust_domain != trust_domain:
        raise IssueRefusedError(
            f"`{entry.spiffe_id}` is not in the trust domain `{trust_domain}`",
            reason=Refusal.ID_OF_OTHER_TRUST_DOMAIN,
        )
    # INVARIANT: an entry without selectors would fit every caller.
    if not entry.selectors:
        raise IssueRefusedError("an entry needs at least one selector")
    for selector in entry.selectors:
        if not _SELECTOR.fullmatch(selector):
            raise IssueRefusedError(f"`{selector[:256]}` is not `kind:key:value`")
    if entry.lifetime is not None and entry.lifetime <= timedelta(0):
        raise IssueRefusedError("the lifetime is not positive", reason=Refusal.LIFETIME)
    for name in entry.dns_names:
        if not _DNS_NAME.fullmatch(name):
            raise IssueRefusedError(f"`{name[:256]}` is not a lower-case DNS name")
    if len(entry.hint.encode()) > _MAX_HINT_BYTES:
        raise IssueRefusedError(f"the hint is longer than {_MAX_HINT_BYTES} bytes")


def insert_entry(connection: Connection, entry: RegistrationEntry) -> None:
    """Write a checked entry within the caller's transaction.

    Raises:
        IssueRefusedError: its `entry_id` is taken.
    """
    bump(connection, REGISTRY_REVISION)
    try:
        connection.execute(insert(ENTRY).values(_values(entry)))
    except IntegrityError as exc:
        raise IssueRefusedError(f"there is an entry `{entry.entry_id}` already") from exc


def delete_entry(connection: Connection, entry_id: str) -> bool:
    """Remove an entry within the caller's transaction; return whether there was one."""
    bump(connection, REGISTRY_REVISION)
    return connection.execute(delete(ENTRY).where(ENTRY.c.entry_id == entry_id)).rowcount > 0


def missing_entries(connection: Connection, entry_ids: Collection[str]) -> list[str]:
    """Return those of some entries' IDs that the ledger does not have, in their order."""
    column = ENTRY.c.entry_id
    held = set(connection.scalars(select(column).where(column.in_(entry_ids))))
    return sorted(set(entry_ids) - held)


def load_entries(connection: Connection) -> tuple[RegistrationEntry, ...]:
    """Return every entry, the oldest first: the first that fits is a caller's default."""
    query = select(ENTRY).order_by(ENTRY.c.created_at, ENTRY.c.entry_id)
    return tuple(_entry(found) for found in connection.execute(query))


class EntryIndex:
    """Entries by what finds them, so that a request does not look at each of them."""

    def __init__(self, entries: Iterable[RegistrationEntry]) -> None:
        """Index `entries`, which come oldest first."""
        self.entries = tuple(entries)
        # An entry that fits has all its selectors among the caller's, so any one of them finds it.
        self._by_selector: dict[str, list[int]] = {}
        self._by_id: dict[str, list[int]] = {}
        self._templates: list[int] = []
        for place, entry in enumerate(self.entries):
            self._by_selector.setdefault(max(entry.selectors), []).append(place)
            if "{" in entry.spiffe_id:
                self._templates.append(place)
            else:
                self._by_id.setdefault(entry.spiffe_id, []).append(place)

    def granted(
        self, caller: Caller, now: datetime
    ) -> tuple[tuple[SpiffeId, RegistrationEntry], ...]:
        """Return each ID that `caller` may hold, once, with the oldest entry that gives it."""
        found: dict[SpiffeId, RegistrationEntry] = {}
        for place in sorted(self._candidates(caller)):
            entry = self.entries[place]
            spiffe_id = entry.id_for(caller) if entry.is_in_force(now) else None
            if spiffe_id is not None:
                found.setdefault(spiffe_id, entry)
        return tuple(found.items())

    def _candidates(self, caller: Caller) -> Iterable[int]:
        """Return the places of the entries that could fit."""
        if caller.method is Method.X509_SVID:
            return [*self._by_id.get(str(caller.holds), ()), *self._templates]
        return [p for each in caller.selectors for p in self._by_selector.get(each, ())]


@lru_cache(maxsize=4096)
def _parsed(text: str) -> SpiffeId | None:
    """Return the ID that `text` spells, or None."""
    try:
        return SpiffeId.parse(text)
    except SpiffeIdError:
        return None


def _values(entry: RegistrationEntry) -> dict[str, object]:
    """Return an entry as the columns hold it."""
    return {
        "entry_id": entry.entry_id,
        "spiffe_id": entry.spiffe_id,
        "selectors": json.dumps(sorted(entry.selectors)),
        "lifetime_seconds": int(entry.lifetime.total_seconds()) if entry.lifetime else 0,
        "dns_names": json.dumps(entry.dns_names),
        "hint": entry.hint,
        "created_at": to_microseconds(entry.created_at),
        "expires_at": int(entry.expires_at.timestamp()) if entry.expires_at else 0,
    }


def _entry(found: Row[Any]) -> RegistrationEntry:
    """Return what the columns hold as an entry."""
    return RegistrationEntry(
        entry_id=found.entry_id,
        spiffe_id=found.spiffe_id,
        selectors=frozenset(json.loads(found.selectors)),
        lifetime=timedelta(seconds=found.lifetime_seconds) if found.lifetime_seconds else None,
        dns_names=tuple(json.loads(found.dns_names)),
        hint=found.hint,
        created_at=from_microseconds(found.created_at),
        expires_at=datetime.fromtimestamp(found.expires_at, UTC) if found.expires_at else None,
    )
