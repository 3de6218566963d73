"""Who stands at the signing endpoints: a bearer token or a client's certificate, made a caller.

A service-account token is a JWT, a join token is not; so one header serves both. Who shows a token
is judged by the token alone, even where a certificate is shown too: a caller has one name.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from ca.caller import Attest, Caller, Method
from ca.errors import AttestationError, IssueRefusedError, StoreError
from ca.hand_over import hand_over
from ca.issuance import Issuance
from ca.issued import IssuedSvid, SigningRequest
from ca.join_tokens import JoinToken
from ca.refusal import Refusal
from ca.renewing import PeerChain
from ca.repeats import Repeats
from ca.service_account import ServiceAccountToken

# BUDGET: a projected service-account token has some 1.5 KiB.
_MAX_TOKEN_CHARS: Final = 16 * 1024
_JWT_DOTS: Final = 2

ReadRequest: TypeAlias = Callable[[], SigningRequest]
"""Reads what a transport was asked; an IssueRefusedError says why it cannot be read."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a transport was asked: its bytes, and what reads them.

    WHY a function: who asks is settled before what is asked is looked at.
    """

    content: bytes
    read: ReadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a request came with. `chain` is the TLS client's (DER, leaf first), its key proven."""

    authorization: str = field(default="", repr=False)
    chain: Sequence[bytes] = field(default=(), repr=False)
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontParts:
    """The attestors of the signing endpoints; `service_account` is None without clusters.

    `repeats` keeps the answers of the last seconds.
    """

    issuance: Issuance
    join_token: Attest[JoinToken]
    svid: Attest[PeerChain]
    repeats: Repeats
    service_account: Attest[ServiceAccountToken] | None = None


class SigningFront(Protocol):
    """What a signing endpoint passes a request on to."""

    async def sign_async(self, asked: Asked, credentials: Credentials) -> IssuedSvid:
        """Return the certificate that is asked for.

        Raises:
            CaError: there is none, and that is on record.
        """


class Front:
    """Attests, then signs; both on record."""

    def __init__(self, parts: FrontParts) -> None:
        """Answer with `parts`."""
        self._parts = parts

    def sign(self, asked: Asked, credentials: Credentials) -> IssuedSvid:
        """Return the certificate that is asked for; blocks until it is on record.

        Raises:
            AttestationError: the credentials prove nobody; recorded.
            CaError: as `Issuance.sign`, or what reading the request raised; recorded.
        """
        digest = _digest(asked, credentials)
        answer, is_mine = self._parts.repeats.claim(digest)
        if is_mine:
            self._find(answer, digest, asked, credentials)
        return answer.result()

    async def sign_async(self, asked: Asked, credentials: Credentials) -> IssuedSvid:
        """Do as `sign` does, without blocking the event loop."""
        digest = _digest(asked, credentials)
        answer, is_mine = self._parts.repeats.claim(digest)
        if is_mine:
            # WHY a thread's work and not ours: a caller that hangs up takes us along, and comes
            # back for the answer.
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, self._find, answer, digest, asked, credentials)
        return await hand_over(answer)

    def _find(
        self, answer: Future[IssuedSvid], digest: bytes, asked: Asked, credentials: Credentials
    ) -> None:
        """Give `answer` its certificate or error: at once, or when it is on record."""

        def settle(done: Future[IssuedSvid]) -> None:
            error = done.exception()
            if error is None:
                answer.set_result(done.result())
            else:
                self._parts.repeats.forget(digest, answer, error)

        try:
            request, caller = self._heard(asked.read, credentials)
            self._parts.issuance.begin(request, caller).add_done_callback(settle)
        except Exception as exc:
            # Nobody who waits for the answer must wait for ever, whatever went wrong.
            self._parts.repeats.forget(digest, answer, exc)

    def _heard(self, read: ReadRequest, credentials: Credentials) -> tuple[SigningRequest, Caller]:
        """Return what is asked, and by whom; blocks."""
        caller = self._attested(credentials)
        try:
            return read(), caller
        except IssueRefusedError as exc:
            self._record(exc, caller.method, caller.evidence)
            raise

    def _attested(self, credentials: Credentials) -> Caller:
        """Return who shows the credentials; blocks."""
        method = Method.X509_SVID
        try:
            token = _bearer_token(credentials.authorization)
            if token is not None:
                is_jwt = token.count(".") == _JWT_DOTS
                method = Method.K8S_SERVICE_ACCOUNT if is_jwt else Method.JOIN_TOKEN
                return self._by_token(token, is_jwt=is_jwt)
            if credentials.chain:
                return self._parts.svid(PeerChain(credentials.chain))
            raise AttestationError(
                "the request has neither a token nor a certificate", reason=Refusal.CALLER_UNKNOWN
            )
        except AttestationError as exc:
            self._record(exc, method, {"address": credentials.address})
            raise

    def _record(
        self, error: IssueRefusedError, method: Method, evidence: Mapping[str, str]
    ) -> None:
        """Put a refusal on record; where that fails, it is a refusal all the same."""
        with suppress(StoreError):
            self._parts.issuance.refuse(error, method, evidence).result()

    def _by_token(self, token: str, *, is_jwt: bool) -> Caller:
        """Return who shows a bearer token."""
        if not is_jwt:
            return self._parts.join_token(JoinToken(token))
        if self._parts.service_account is None:
            raise AttestationError(
                "no cluster's tokens are believed here", reason=Refusal.TOKEN_UNKNOWN
            )
        return self._parts.service_account(ServiceAccountToken(token))


def _digest(asked: Asked, credentials: Credentials) -> bytes:
    """Return what tells a request and its caller from every other."""
    parts = (credentials.authorization.encode(), *credentials.chain, asked.content)
    hashed = hashlib.sha256()
    for part in parts:
        # The lengths keep one part from passing for the beginning of the next.
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.digest()


def _bearer_token(header: str) -> str | None:
    """Return the token of an `Authorization` header, None where there is no header.

    Raises:
        AttestationError: it is of another scheme, or no token at all (RFC 6750 §2.1).
    """
    if not header:
        return None
    scheme, _, token = header.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN_CHARS:
        raise AttestationError("the header is not a bearer token", reason=Refusal.TOKEN_INVALID)
    return token
