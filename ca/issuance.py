"""The one way to a certificate: check, build, sign, validate, record, and only then let it go.

Whatever the transport, a request comes here with a caller that an attestor has proven; entries say
which ID it may hold, the registry which IDs and keys are denied. What is refused is recorded with
its named reason, what is issued with everything that led to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import chain

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from audit.record import AuditEvent, EventName
from ca.authority import Authority
from ca.by_identity import by_identity
from ca.caller import Caller, Method
from ca.clock import Clock
from ca.csr import ReadCsr, read_csr, spki_digest
from ca.errors import (
    CaError,
    IssueRefusedError,
    StoreError,
)
from ca.grant import Grant, IssuancePolicy, choose_grant
from ca.hand_over import hand_over
from ca.issue import SvidRequest, make_leaf
from ca.issued import IssuedSvid, SigningRequest, TokenRecord
from ca.key_kinds import PrivateKey, PublicKey, check_public_key, generate_key
from ca.ledger import LedgerRow, format_serial, row_to_values
from ca.limits import CallerLimit, RefusalLines
from ca.profile import key_identifier
from ca.promise import Promise
from ca.recorder import Recording, Records, StaleRegistryError
from ca.refusal import Refusal
from ca.refusal_details import held_back_details, reason_of, trimmed
from ca.registry import Registry, RegistryState
from ca.revocations import DeniedKind
from ca.svid import X509Svid
from identity.spiffe_id import SpiffeId

__all__ = ["Issuance", "IssuanceParts", "IssuedSvid", "SigningRequest", "TokenRecord"]

# BUDGET: entries that change faster than a certificate is signed would keep it waiting for ever.
_MAX_CHECKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceParts:
    """What issuance needs from outside; `node` names this replica in every row."""

    authority: Callable[[], Authority]
    registry: Registry
    recorder: Records
    policy: IssuancePolicy
    clock: Clock
    node: str
    limit: CallerLimit = field(default_factory=lambda: CallerLimit(0, 0))
    refusal_lines: RefusalLines = field(default_factory=lambda: RefusalLines(0))
    new_serial: Callable[[], int] = x509.random_serial_number
    count_issued: Callable[[str], None] = lambda _kind: None
    count_refused: Callable[[Refusal], None] = lambda _reason: None


class Issuance:
    """Issues. Any thread may call it.

    What became durable is counted by its kind (`x509`, `jwt`), what did not by its reason.
    """

    def __init__(self, parts: IssuanceParts) -> None:
        """Issue with `parts`."""
        self._parts = parts

    def sign(self, request: SigningRequest, caller: Caller) -> IssuedSvid:
        """Return a certificate for the key of a CSR; blocks until it is on record.

        Raises:
            IssueRefusedError: the request breaks a rule; `reason` names it.
            AuthorityExpiredError: there is nothing in force to sign with.
            StoreError: it could not be recorded.
            SvidInvalidError: what came out breaks the standard.
        """
        return self.begin(request, caller).result()

    async def sign_async(self, request: SigningRequest, caller: Caller) -> IssuedSvid:
        """Do as `sign` does, without blocking the event loop while the disk works."""
        return await hand_over(self.begin(request, caller))

    def begin(self, request: SigningRequest, caller: Caller) -> Future[IssuedSvid]:
        """Start `sign` and return its future; the signature is made in the calling thread."""
        attempt = _Attempt(caller=caller, asked=request.spiffe_id, lifetime=request.lifetime)
        try:
            # Before anything is worked out for who asks too much.
            self.check_rate(caller)
            attempt.csr = read_csr(request.csr)
            attempt.key = attempt.csr.public_key
        except IssueRefusedError as exc:
            return self._refuse(attempt, exc)
        return self._begin(attempt)

    def issue(
        self,
        spiffe_id: SpiffeId,
        caller: Caller,
        *,
        lifetime: timedelta | None = None,
        dns_names: tuple[str, ...] = (),
        new_key: Callable[[], PrivateKey] = generate_key,
    ) -> X509Svid:
        """Return a certificate with a key made here; blocks until it is on record.

        `dns_names` count only for a caller whom the configuration or the operator `granted` the
        ID; others get those of their entry.

        Raises:
            CaError: as `sign`.
        """
        key = new_key()
        attempt = _Attempt(caller=caller, asked=spiffe_id, lifetime=lifetime, dns_names=dns_names)
        attempt.key = check_public_key(key.public_key())
        try:
            self.check_rate(caller)
        except IssueRefusedError as exc:
            self._refuse(attempt, exc).result()
        issued = self._begin(attempt).result()
        return X509Svid(spiffe_id=issued.spiffe_id, chain=issued.chain, key=key)

    def check_rate(self, caller: Caller) -> None:
        """Return when `caller` may ask once more now.

        Raises:
            IssueRefusedError: it has asked too often; not recorded yet.
        """
        if not self._parts.limit.admits(caller):
            raise IssueRefusedError(
                "the caller asks more often than it may", reason=Refusal.RATE_LIMITED
            )

    def record_token(
        self, token: TokenRecord, caller: Caller, entry_id: str, *, revision: int
    ) -> Future[None]:
        """Record a JWT-SVID; it may leave once the future is resolved without an error.

        `revision` is that of the registry by which the caller was judged.

        Raises:
            StoreError: it cannot be recorded.
        """
        parts = self._parts
        row = LedgerRow(
            kind="jwt",
            serial=token.token_id,
            spiffe_id=str(token.spiffe_id),
            authority=token.authority,
            entry_id=entry_id,
            spki_sha256=spki_digest(token.key),
            der_sha256=token.token_sha256,
            der=b"",
            method=caller.method.value,
            evidence=trimmed(caller.evidence),
            node=parts.node,
            issued_at=parts.clock(),
            not_before=token.issued_at,
            not_after=token.expires_at,
        )
        more = {"audiences": list(token.audiences)}
        done = parts.recorder.record(_recording_of(row, revision, more))
        done.add_done_callback(self._count_token)
        return done

    def record_svid(self, svid: X509Svid, caller: Caller) -> None:
        """Record an SVID that the server itself made for a configured workload; blocks.

        Raises:
            IssueRefusedError: its ID is denied; that is recorded instead.
            StoreError: it could not be recorded, and may not leave.
        """
        parts, now = self._parts, self._parts.clock()
        # WHY before trying: the caller is an event loop, and a database that does not answer would
        # hold it up once for every workload. `Recorder.probe` finds out when it is back.
        fault = parts.recorder.health()
        if fault is not None:
            raise StoreError(fault)
        attempt = _Attempt(caller=caller, asked=svid.spiffe_id)
        made = (svid.leaf, svid.leaf.public_bytes(serialization.Encoding.DER))
        grant = Grant(spiffe_id=svid.spiffe_id)
        row = self._row(attempt, grant, made, _authority_key(svid.leaf))
        for _ in range(_MAX_CHECKS):
            state = parts.registry.state
            if state.denial(DeniedKind.SPIFFE_ID, str(svid.spiffe_id), now) is not None:
                error = IssueRefusedError(f"`{svid.spiffe_id}` is denied", reason=Refusal.DENIED)
                self._refuse(attempt, error).result()
            try:
                return parts.recorder.record(_recording_of(row, state.revision)).result()
            except StaleRegistryError:
                parts.registry.refresh(after=state.revision)
        raise StoreError("the entries change faster than a certificate is recorded")

    def refuse(
        self, error: IssueRefusedError, method: Method, evidence: Mapping[str, str]
    ) -> Future[None]:
        """Record that a caller could not be attested; for transports. The future is resolved
        when the record is on the disk, or ends with a StoreError.

        Raises:
            StoreError: it cannot be recorded.
        """
        self._parts.count_refused(error.reason)
        caller = Caller(method=method, evidence=evidence)
        if not self._parts.refusal_lines.admits(caller, error.reason):
            counted: Future[None] = Future()
            counted.set_result(None)
            return counted
        return self._parts.recorder.record(
            Recording(event=self._refusal_event(_Attempt(caller=caller), error, error.reason))
        )

    def record_held_back(self, *, is_end: bool = False) -> None:
        """Put refusals that got no line of their own on record, one line for all of a kind.

        Raises:
            StoreError: it cannot be recorded.
        """
        for held in self._parts.refusal_lines.take_due(is_end=is_end):
            event = self._event(EventName.SVID_REFUSED, held_back_details(held))
            self._parts.recorder.record(Recording(event=event))

    def _begin(self, attempt: _Attempt) -> Future[IssuedSvid]:
        """Sign what was read, record it, and return the future of the whole."""
        try:
            issued, recording = self._signed(attempt)
            recorded = self._parts.recorder.record(recording)
        except CaError as exc:
            return self._refuse(attempt, exc)
        outcome: Promise[IssuedSvid] = Promise()

        def settle(done: Future[None]) -> None:
            error = done.exception()
            if error is None:
                self._parts.count_issued("x509")
                outcome.set_result(issued)
                return
            try:
                if isinstance(error, StaleRegistryError) and attempt.checks < _MAX_CHECKS:
                    _pass_on(self._begin(attempt), outcome)
                else:
                    shown = error if isinstance(error, CaError) else StoreError("not recorded")
                    _pass_on(self._refuse(attempt, shown), outcome)
            except Exception as exc:
                # A callback's error goes nowhere, and the caller would wait for ever.
                outcome.set_exception(exc)

        recorded.add_done_callback(settle)
        return outcome

    def _signed(self, attempt: _Attempt) -> tuple[IssuedSvid, Recording]:
        """Check, build, sign and validate; return the result with what to record of it."""
        parts, now = self._parts, self._parts.clock()
        state = parts.registry.state
        if attempt.checks:
            state = parts.registry.refresh(after=state.revision)
        attempt.checks += 1
        authority = parts.authority()
        assert attempt.key is not None
        spki = attempt.csr.spki_sha256 if attempt.csr else spki_digest(attempt.key)
        _check_key(spki, authority)
        if state.denial(DeniedKind.KEY, spki, now):
            raise IssueRefusedError("the key is denied", reason=Refusal.DENIED)
        _check_shown(attempt.caller, state, now)
        asked_by_csr = attempt.csr.asked if attempt.csr else None
        grant = choose_grant(
            state,
            attempt.caller,
            (attempt.asked, asked_by_csr),
            trust_domain=authority.trust_domain,
            now=now,
        )
        svid_request = SvidRequest(
            spiffe_id=grant.spiffe_id,
            lifetime=parts.policy.lifetime_for(grant.lifetime, attempt.lifetime),
            dns_names=grant.dns_names or (attempt.dns_names if attempt.caller.granted else ()),
        )
        made = make_leaf(svid_request, attempt.key, authority, now=now, new_serial=parts.new_serial)
        issued = IssuedSvid(
            spiffe_id=grant.spiffe_id,
            chain=(made[0], *authority.chain),
            roots=authority.roots,
            leaf_der=made[1],
        )
        signer = key_identifier(authority.intermediate).hex()
        row = self._row(attempt, grant, made, signer, spki)
        return issued, _recording_of(row, state.revision)

    def _row(
        self,
        attempt: _Attempt,
        grant: Grant,
        made: tuple[x509.Certificate, bytes],
        authority: str,
        spki: str = "",
    ) -> LedgerRow:
        """Return the ledger's row of a certificate, as DER too, that the key `authority` signed."""
        leaf, der = made
        return LedgerRow(
            serial=format_serial(leaf.serial_number),
            spiffe_id=str(grant.spiffe_id),
            authority=authority,
            entry_id=grant.entry_id,
            spki_sha256=spki or spki_digest(check_public_key(leaf.public_key())),
            der_sha256=hashlib.sha256(der).hexdigest(),
            der=der,
            csr_sha256=attempt.csr.csr_sha256 if attempt.csr else "",
            method=attempt.caller.method.value,
            evidence=trimmed(attempt.caller.evidence),
            node=self._parts.node,
            issued_at=self._parts.clock(),
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )

    def _refuse(self, attempt: _Attempt, error: CaError) -> Future[IssuedSvid]:
        """Record a refusal; the future ends with `error` once that is durable, or cannot be."""
        reason = reason_of(error)
        self._parts.count_refused(reason)
        outcome: Promise[IssuedSvid] = Promise()
        if not self._parts.refusal_lines.admits(attempt.caller, reason):
            outcome.set_exception(error)
            return outcome
        try:
            recorded = self._parts.recorder.record(
                Recording(event=self._refusal_event(attempt, error, reason))
            )
        except StoreError:
            # Nothing was issued, so nothing is lost but the word of it.
            outcome.set_exception(error)
            return outcome
        recorded.add_done_callback(lambda _: outcome.set_exception(error))
        return outcome

    def _refusal_event(self, attempt: _Attempt, error: CaError, reason: Refusal) -> AuditEvent:
        """Return the line of a refusal."""
        details: dict[str, object] = {
            "reason": reason.value,
            "why": str(error),
            "method": attempt.caller.method.value,
            "evidence": trimmed(attempt.caller.evidence),
        }
        asked = attempt.asked or (attempt.csr.asked if attempt.csr else None)
        if asked is not None:
            details["spiffe_id"] = str(asked)
        if attempt.csr is not None:
            details["csr_sha256"] = attempt.csr.csr_sha256
            details["spki_sha256"] = attempt.csr.spki_sha256
        return self._event(EventName.SVID_REFUSED, details)

    def _event(self, name: EventName, details: Mapping[str, object]) -> AuditEvent:
        """Return an event of this moment."""
        return AuditEvent(event=name, at=self._parts.clock().timestamp(), details=details)

    def _count_token(self, done: Future[None]) -> None:
        """Count a token that became durable."""
        if done.exception() is None:
            self._parts.count_issued("jwt")


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """One request on its way; `checks` counts how often it was held against the registry."""

    caller: Caller
    asked: SpiffeId | None = None
    lifetime: timedelta | None = None
    dns_names: tuple[str, ...] = ()
    csr: ReadCsr | None = None
    key: PublicKey | None = None
    checks: int = 0


def _check_shown(caller: Caller, state: RegistryState, now: datetime) -> None:
    """Refuse a caller whose SVID was denied since it was shown, or since that was read here.

    WHY once more: its attestor looked at what was known then, and who renews a certificate that is
    denied has another one, which nobody denies.
    """
    if caller.leaf is None or caller.holds is None:
        return
    if state.denial_of(caller.holds, caller.leaf, now) is not None:
        raise IssueRefusedError("the SVID that was shown is denied", reason=Refusal.CALLER_REVOKED)


def _check_key(spki: str, authority: Authority) -> None:
    """Refuse a key that is an authority's own."""
    if spki in _key_digests(authority.chain, authority.roots):
        raise IssueRefusedError("the key is an authority's own", reason=Refusal.KEY_OF_ANOTHER)


@by_identity
@lru_cache(maxsize=64)
def _key_digests(*authorities: tuple[x509.Certificate, ...]) -> frozenset[str]:
    """Return the digests of the keys of authorities."""
    certificates = chain.from_iterable(authorities)
    return frozenset(spki_digest(check_public_key(each.public_key())) for each in certificates)


def _authority_key(leaf: x509.Certificate) -> str:
    """Return the key identifier of the authority that signed `leaf`, in hex."""
    kind = x509.AuthorityKeyIdentifier
    identifier = leaf.extensions.get_extension_for_class(kind).value.key_identifier
    return identifier.hex() if identifier is not None else ""


def _recording_of(
    row: LedgerRow, revision: int | None = None, more: Mapping[str, object] | None = None
) -> Recording:
    """Return what makes an issuance durable; its line says `more` than its row."""
    # The line's moment is the row's, so that a row made of the line is the same again.
    at = row.issued_at.timestamp()
    event = AuditEvent(event=EventName.SVID_ISSUED, at=at, details=more or {})
    return Recording(event=event, row=row_to_values(row), revision=revision)


def _pass_on(source: Future[IssuedSvid], target: Future[IssuedSvid]) -> None:
    """Give `target` the outcome of `source`."""

    def copy(done: Future[IssuedSvid]) -> None:
        error = done.exception()
        if error is None:
            target.set_result(done.result())
        else:
            target.set_exception(error)

    source.add_done_callback(copy)
