"""Which ID a caller gets, and for how long: the first beat of issuance, without any effect."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from ca.caller import Caller
from ca.entries import RegistrationEntry
from ca.errors import IssueRefusedError
from ca.refusal import Refusal
from ca.registry import RegistryState
from ca.revocations import DeniedKind
from identity.spiffe_id import SpiffeId, TrustDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuancePolicy:
    """How long certificates live: unasked, and at the very most."""

    lifetime: timedelta
    max_lifetime: timedelta

    def lifetime_for(self, entry: timedelta | None, asked: timedelta | None) -> timedelta:
        """Return the lifetime of a certificate; the signer's end may cut it further.

        Raises:
            IssueRefusedError: more was asked than anyone may have, or nothing at all.
        """
        if asked is None:
            return min(entry or self.lifetime, self.max_lifetime)
        if asked <= timedelta(0):
            raise IssueRefusedError("the lifetime is not positive", reason=Refusal.LIFETIME)
        # WHY refused and not cut: who asks for ten years would find out only when it is over.
        if asked > self.max_lifetime:
            raise IssueRefusedError(
                f"the lifetime of {asked.total_seconds():.0f} s is over the limit of "
                f"{self.max_lifetime.total_seconds():.0f} s",
                reason=Refusal.LIFETIME,
            )
        return min(asked, entry or self.max_lifetime)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """An ID that the caller may hold, and what its entry says beside it."""

    spiffe_id: SpiffeId
    entry_id: str = ""
    lifetime: timedelta | None = None
    dns_names: tuple[str, ...] = ()


def choose_grant(
    state: RegistryState,
    caller: Caller,
    asked: tuple[SpiffeId | None, SpiffeId | None],
    *,
    trust_domain: TrustDomain,
    now: datetime,
) -> Grant:
    """Return the ID to issue; `asked` is the request's and the CSR's, each perhaps None.

    Raises:
        IssueRefusedError: naming why there is none.
    """
    wanted = _one_wish(*asked)
    if wanted is not None:
        _check_wish(wanted, state, trust_domain, now)
    if caller.granted is not None:
        _check_wish(caller.granted, state, trust_domain, now)
        grants: tuple[Grant, ...] = (Grant(spiffe_id=caller.granted),)
    else:
        grants = tuple(_granted(spiffe_id, entry) for spiffe_id, entry in state.grants(caller, now))
    if not grants:
        raise IssueRefusedError(
            "no registration entry fits the caller", reason=Refusal.CALLER_UNKNOWN
        )
    if wanted is None:
        if len(grants) > 1:
            raise IssueRefusedError(
                f"the caller may hold {len(grants)} IDs and asks for none of them",
                reason=Refusal.ID_AMBIGUOUS,
            )
        return grants[0]
    for grant in grants:
        if grant.spiffe_id == wanted:
            return grant
    raise IssueRefusedError(f"the caller may not hold `{wanted}`", reason=Refusal.ID_NOT_ALLOWED)


def _one_wish(requested: SpiffeId | None, in_csr: SpiffeId | None) -> SpiffeId | None:
    """Return the one ID that is asked for, or None."""
    if requested is not None and in_csr is not None and requested != in_csr:
        raise IssueRefusedError(
            f"the CSR names `{in_csr}`, the request `{requested}`", reason=Refusal.ID_NOT_ALLOWED
        )
    return requested or in_csr


def _check_wish(
    wanted: SpiffeId, state: RegistryState, trust_domain: TrustDomain, now: datetime
) -> None:
    """Refuse an ID that nobody may have here."""
    if wanted.trust_domain != trust_domain:
        raise IssueRefusedError(
            f"`{wanted}` is not in the trust domain `{trust_domain}`",
            reason=Refusal.ID_OF_OTHER_TRUST_DOMAIN,
        )
    # X509-SVID §3: a leaf's SPIFFE ID has a non-root path.
    if not wanted.path:
        raise IssueRefusedError(
            f"`{wanted}` names a trust domain, not a workload", reason=Refusal.ID_MALFORMED
        )
    if state.denial(DeniedKind.SPIFFE_ID, str(wanted), now) is not None:
        raise IssueRefusedError(f"`{wanted}` is denied", reason=Refusal.DENIED)


def _granted(spiffe_id: SpiffeId, entry: RegistrationEntry) -> Grant:
    """Return what an entry gives."""
    return Grant(
        spiffe_id=spiffe_id,
        entry_id=entry.entry_id,
        lifetime=entry.lifetime,
        dns_names=entry.dns_names,
    )
