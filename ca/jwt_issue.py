"""Issuance of JWT-SVIDs in the four beats of every issuance, recorded before they leave.

Spec: JWT-SVID §2 (header), §3 (claims); SPIFFE Workload API §5.2.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import jwt

from ca.caller import Caller
from ca.clock import Clock
from ca.errors import AuthorityExpiredError, IssueRefusedError, StoreError, SvidInvalidError
from ca.issuance import Issuance
from ca.issued import TokenRecord
from ca.jwt_keys import JwtKeys, JwtSigner
from ca.recorder import StaleRegistryError
from ca.refusal import Refusal
from ca.registry import Registry
from identity.jwt_svid import JwtSvid, verify_jwt_svid
from identity.spiffe_id import SpiffeId

# BUDGET: a token for this many audiences would still be a header's size; one is the rule.
MAX_AUDIENCES: Final = 16
_MAX_AUDIENCE_BYTES: Final = 1024
_MAX_CHECKS: Final = 5
_TOKEN_ID_BYTES: Final = 20
# BUDGET: a signer with less than this left signs no more.
_MIN_REMAINING: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedToken:
    """A JWT-SVID that is on record and may leave."""

    spiffe_id: SpiffeId
    text: str
    expires_at: datetime
    hint: str = ""


class TokenDesk:
    """Issues JWT-SVIDs to callers whom an entry fits."""

    def __init__(
        self,
        issuance: Issuance,
        registry: Registry,
        keys: JwtKeys,
        clock: Clock,
        *,
        lifetime: timedelta = timedelta(minutes=5),
        new_id: Callable[[], str] = lambda: secrets.token_hex(_TOKEN_ID_BYTES),
    ) -> None:
        """Issue tokens that live for `lifetime`, or less where an entry or the authority ends."""
        self._issuance = issuance
        self._registry = registry
        self._keys = keys
        self._clock = clock
        self._lifetime = lifetime
        self._new_id = new_id

    async def issue(
        self, caller: Caller, audiences: Sequence[str], spiffe_id: SpiffeId | None = None
    ) -> tuple[IssuedToken, ...]:
        """Return a token for each ID that `caller` may hold, or for `spiffe_id` alone.

        Raises:
            IssueRefusedError: the audiences are none, or the caller may not hold the ID, or any.
            CaError: it could not be signed or recorded.
        """
        try:
            self._issuance.check_rate(caller)
            _check_audiences(audiences)
            for _ in range(_MAX_CHECKS):
                try:
                    return await self._issue_once(caller, tuple(audiences), spiffe_id)
                except StaleRegistryError:
                    revision = self._registry.state.revision
                    await asyncio.to_thread(self._registry.refresh, after=revision)
        except IssueRefusedError as exc:
            with suppress(StoreError):
                # Nothing was issued, so nothing is lost but the word of it.
                refused = self._issuance.refuse(exc, caller.method, caller.evidence)
                await asyncio.wrap_future(refused)
            raise
        raise StoreError("the entries change faster than a token is signed")

    async def _issue_once(
        self, caller: Caller, audiences: tuple[str, ...], wanted: SpiffeId | None
    ) -> tuple[IssuedToken, ...]:
        """Issue against the registry as it is read now."""
        state = self._registry.state
        grants = state.grants(caller, self._clock())
        if not grants:
            raise IssueRefusedError(
                "no registration entry fits the caller", reason=Refusal.CALLER_UNKNOWN
            )
        chosen = [each for each in grants if wanted in (None, each[0])]
        if not chosen:
            raise IssueRefusedError(
                f"the caller may not hold `{wanted}`", reason=Refusal.ID_NOT_ALLOWED
            )
        issued = []
        for spiffe_id, entry in chosen:
            lifetime = min(self._lifetime, entry.lifetime or self._lifetime)
            record, text = self._sign(spiffe_id, audiences, lifetime)
            # That of the check: whoever reads the registry anew meanwhile has not checked us.
            done = self._issuance.record_token(
                record, caller, entry.entry_id, revision=state.revision
            )
            await asyncio.wrap_future(done)
            issued.append(
                IssuedToken(
                    spiffe_id=spiffe_id,
                    text=text,
                    expires_at=record.expires_at,
                    hint=entry.hint,
                )
            )
        return tuple(issued)

    def _sign(
        self, spiffe_id: SpiffeId, audiences: tuple[str, ...], lifetime: timedelta
    ) -> tuple[TokenRecord, str]:
        """Build, sign and validate a token; return it with what to record of it."""
        signer, now = self._keys.active(), self._clock()
        issued_at = now.replace(microsecond=0)
        expires_at = min(issued_at + lifetime, signer.slot.expires_at)
        if expires_at - now < min(lifetime, _MIN_REMAINING) - timedelta(seconds=1):
            raise AuthorityExpiredError("the authority is too near to its end to sign a token")
        token_id = self._new_id()
        text = jwt.encode(
            {
                "sub": str(spiffe_id),
                "aud": list(audiences),
                # RFC 7519 §2 allows fractions; whole numbers are what every reader takes.
                "exp": int(expires_at.timestamp()),
                "iat": int(issued_at.timestamp()),
                "jti": token_id,
            },
            signer.key,
            algorithm=signer.algorithm,
            headers={"kid": signer.kid, "typ": "JWT"},
        )
        self._validate(text, audiences, spiffe_id, now)
        return _record(signer, token_id, spiffe_id, audiences, (issued_at, expires_at), text), text

    def _validate(
        self, text: str, audiences: tuple[str, ...], spiffe_id: SpiffeId, now: datetime
    ) -> None:
        """Read the token as its receivers will, under the bundle that they have."""
        found = verify_jwt_svid(text, audiences, self._keys.bundle(), now)
        if not isinstance(found, JwtSvid):
            raise SvidInvalidError(f"a token of ours does not verify: {found.detail}")
        if (found.spiffe_id, found.audiences) != (spiffe_id, audiences):
            raise SvidInvalidError("a token of ours says something else than was asked for")


def _record(
    signer: JwtSigner,
    token_id: str,
    spiffe_id: SpiffeId,
    audiences: tuple[str, ...],
    span: tuple[datetime, datetime],
    text: str,
) -> TokenRecord:
    """Return what the ledger keeps of a token."""
    return TokenRecord(
        token_id=token_id,
        spiffe_id=spiffe_id,
        audiences=audiences,
        key=signer.key.public_key(),
        token_sha256=hashlib.sha256(text.encode()).hexdigest(),
        issued_at=span[0],
        expires_at=span[1],
    )


def _check_audiences(audiences: Sequence[str]) -> None:
    """Refuse what no validator could identify itself with."""
    # SPIFFE Workload API §6.2.1: the audience is required.
    if not audiences or not all(audiences):
        raise IssueRefusedError("an audience is required", reason=Refusal.BAD_REQUEST)
    if len(audiences) > MAX_AUDIENCES:
        raise IssueRefusedError(
            f"{len(audiences)} audiences are over the limit of {MAX_AUDIENCES}",
            reason=Refusal.BAD_REQUEST,
        )
    if any(len(audience.encode()) > _MAX_AUDIENCE_BYTES for audience in audiences):
        raise IssueRefusedError(
            f"an audience is longer than {_MAX_AUDIENCE_BYTES} bytes", reason=Refusal.BAD_REQUEST
        )
