"""Issuance of one X.509-SVID in four beats: check the request, build, sign, validate the result.

For a key that is shown by a CSR, or one made here for one certificate only and never written to
disk. What is issued here is not yet recorded: see `ca.issuance`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from ca.authority import Authority
from ca.errors import AuthorityExpiredError, IssueRefusedError
from ca.key_kinds import PrivateKey, PublicKey, generate_key
from ca.leaf_pattern import LeafFields, leaf_pattern
from ca.profile import Validity
from ca.refusal import Refusal
from ca.svid import X509Svid
from ca.validate import read_made
from identity.spiffe_id import SpiffeId

# BUDGET: a signer with less than this left (or than one leaf's life) signs no more: leaves of a
# few seconds would only hide that it is at its end.
_MIN_SIGNER_REMAINING = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class SvidRequest:
    """What is asked for; whoever builds one has already settled that it may be asked."""

    spiffe_id: SpiffeId
    lifetime: timedelta
    dns_names: tuple[str, ...] = ()


def issue_x509_svid(
    request: SvidRequest,
    authority: Authority,
    *,
    now: datetime,
    new_key: Callable[[], PrivateKey] = generate_key,
    new_serial: Callable[[], int] = x509.random_serial_number,
) -> X509Svid:
    """Return a new SVID with a new key; it ends no later than its signer.

    Raises:
        IssueRefusedError: the request breaks a rule of issuance.
        AuthorityExpiredError: the signer is too near to its end.
        SvidInvalidError: what came out breaks the standard; it is thrown away.
    """
    key = new_key()
    chain = issue_for_key(request, key.public_key(), authority, now=now, new_serial=new_serial)
    return X509Svid(spiffe_id=request.spiffe_id, chain=chain, key=key)


def issue_for_key(
    request: SvidRequest,
    key: PublicKey,
    authority: Authority,
    *,
    now: datetime,
    new_serial: Callable[[], int] = x509.random_serial_number,
) -> tuple[x509.Certificate, ...]:
    """Return a chain for the holder of `key`, leaf first; it ends no later than its signer.

    Raises:
        IssueRefusedError: the request breaks a rule of issuance.
        AuthorityExpiredError: the signer is too near to its end.
        SvidInvalidError: what came out breaks the standard; it is thrown away.
    """
    leaf, _ = make_leaf(request, key, authority, now=now, new_serial=new_serial)
    return (leaf, *authority.chain)


def make_leaf(
    request: SvidRequest,
    key: PublicKey,
    authority: Authority,
    *,
    now: datetime,
    new_serial: Callable[[], int] = x509.random_serial_number,
) -> tuple[x509.Certificate, bytes]:
    """Do as `issue_for_key` does; return the leaf, and the very bytes that it was read from.

    Raises:
        CaError: as `issue_for_key`.
    """
    _check_request(request, authority, now)
    wanted = LeafFields(
        serial=new_serial(),
        validity=Validity.of(now, request.lifetime, authority.intermediate),
        spiffe_id=request.spiffe_id,
        key=key,
        dns_names=request.dns_names,
    )
    encoded = leaf_pattern(authority.intermediate, authority.key).sign(wanted, authority.key)
    leaf = read_made(encoded, wanted, authority.chain, authority.roots, now=now)
    return leaf, encoded


def _check_request(request: SvidRequest, authority: Authority, now: datetime) -> None:
    """Refuse what this authority must not sign."""
    if request.spiffe_id.trust_domain != authority.trust_domain:
        raise IssueRefusedError(
            f"`{request.spiffe_id}` is not in the trust domain `{authority.trust_domain}`",
            reason=Refusal.ID_OF_OTHER_TRUST_DOMAIN,
        )
    # X509-SVID §3: a leaf's SPIFFE ID has a non-root path.
    if not request.spiffe_id.path:
        raise IssueRefusedError(
            f"`{request.spiffe_id}` names a trust domain, not a workload",
            reason=Refusal.ID_MALFORMED,
        )
    if request.lifetime <= timedelta(0):
        raise IssueRefusedError("the lifetime is not positive", reason=Refusal.LIFETIME)
    if now < authority.intermediate.not_valid_before_utc:
        raise AuthorityExpiredError("the intermediate is not in its validity yet")
    remaining = authority.intermediate.not_valid_after_utc - now
    if remaining < min(request.lifetime, _MIN_SIGNER_REMAINING):
        raise AuthorityExpiredError("the intermediate is too near to its end to sign")
