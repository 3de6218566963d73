"""Join tokens: a secret for one first certificate, used once, then worthless.

The ledger holds a token's digest, never the token. Using it up is one conditional update, so that
of two who show it at the same moment, to whichever replica, one gets in.

A token that was shown is used up even where the request that came with it is then refused: a token
that could be tried again could be tried by others too.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update

from ca.caller import Caller, Method
from ca.clock import Clock
from ca.entries import RegistrationEntry
from ca.errors import AttestationError
from ca.ledger import to_microseconds
from ca.refusal import Refusal
from ca.store import Store
from ca.store_schema import JOIN_TOKEN
from identity.spiffe_id import SpiffeId

SELECTOR_PREFIX: Final = "join_token:id:"
_TOKEN_BYTES: Final = 32
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{20,200}", re.ASCII)
_DIGEST_SHOWN: Final = 16


@dataclass(frozen=True, slots=True)
class JoinToken:
    """The evidence: the token as it was shown."""

    text: str = field(repr=False)


def new_token() -> str:
    """Return a token of 256 bits from the system's CSPRNG."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def insert_token(
    connection: Connection,
    spiffe_id: SpiffeId,
    *,
    now: datetime,
    lifetime: timedelta,
    make: Callable[[], str] = new_token,
) -> str:
    """Return a new token for `spiffe_id`, its digest written within the caller's transaction."""
    token = make()
    connection.execute(
        insert(JOIN_TOKEN).values(
            token_sha256=_digest(token),
            spiffe_id=str(spiffe_id),
            created_at=to_microseconds(now),
            expires_at=to_microseconds(now + lifetime),
            used_at=0,
        )
    )
    return token


def entry_for_token(spiffe_id: SpiffeId, *, now: datetime) -> RegistrationEntry:
    """Return the entry that lets the holder of a token have `spiffe_id`, and renew it."""
    digest = hashlib.sha256(str(spiffe_id).encode()).hexdigest()[:_DIGEST_SHOWN]
    return RegistrationEntry(
        entry_id=f"join-{digest}",
        spiffe_id=str(spiffe_id),
        selectors=frozenset({f"{SELECTOR_PREFIX}{spiffe_id}"}),
        created_at=now,
    )


def delete_old_tokens(connection: Connection, *, before: datetime) -> int:
    """Remove the tokens that ended before a moment; return how many."""
    old = JOIN_TOKEN.c.expires_at < to_microseconds(before)
    return connection.execute(delete(JOIN_TOKEN).where(old)).rowcount


def use_up_tokens(connection: Connection, used: Mapping[str, datetime]) -> int:
    """Use up tokens that a record names, within the caller's transaction; return how many were not.

    `used` is by what a caller's evidence tells of a token: the beginning of its digest.
    """
    column, found = JOIN_TOKEN.c, 0
    for shown, at in used.items():
        is_named = func.substr(column.token_sha256, 1, _DIGEST_SHOWN) == shown
        found += connection.execute(
            update(JOIN_TOKEN)
            .where(is_named, column.used_at == 0)
            .values(used_at=to_microseconds(at))
        ).rowcount
    return found


class JoinTokenAttestor:
    """Proves who shows a join token, and uses it up."""

    def __init__(self, store: Store, clock: Clock) -> None:
        """Look tokens up in `store`."""
        self._store = store
        self._clock = clock

    def __call__(self, evidence: JoinToken) -> Caller:
        """Return the caller; blocks for the ledger.

        Raises:
            AttestationError: the token is unknown, used or over.
            StoreError: the ledger cannot be asked; the token may be used up or not.
        """
        if not _TOKEN.fullmatch(evidence.text):
            raise AttestationError("the token is none of ours", reason=Refusal.TOKEN_UNKNOWN)
        digest = _digest(evidence.text)
        now = to_microseconds(self._clock())
        column = JOIN_TOKEN.c
        with self._store.write() as connection:
            is_used_now = connection.execute(
                update(JOIN_TOKEN)
                .where(column.token_sha256 == digest, column.used_at == 0, column.expires_at > now)
                .values(used_at=now)
            ).rowcount
            query = select(column.spiffe_id, column.used_at).where(column.token_sha256 == digest)
            found = connection.execute(query).first()
        if found is None:
            raise AttestationError("the token is none of ours", reason=Refusal.TOKEN_UNKNOWN)
        if not is_used_now:
            if found.used_at:
                raise AttestationError("the token was used before", reason=Refusal.TOKEN_USED)
            raise AttestationError("the token's time is over", reason=Refusal.TOKEN_EXPIRED)
        return Caller(
            method=Method.JOIN_TOKEN,
            selectors=frozenset({f"{SELECTOR_PREFIX}{found.spiffe_id}"}),
            evidence={"token_sha256": digest[:_DIGEST_SHOWN], "spiffe_id": found.spiffe_id},
        )


def _digest(token: str) -> str:
    """Return the digest by which the ledger knows a token."""
    return hashlib.sha256(token.encode()).hexdigest()
