"""Revocation lists: what relying parties read that know no deny list.

A verifier wants a list from every authority of a path: an intermediate's names the leaves that were
revoked, a root's the intermediates. A root that is kept offline signs its list when its key is here
for a renewal, so that list is good until the end of what it has signed.

Spec: RFC 5280 §5 (CRL profile), §5.2.3 (CRL number), §5.3.1 (reason), §6.3.3 (lists of a path).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509

from ca.key_kinds import PrivateKey, signature_hash
from ca.keys import KeyStore
from ca.ledger import LedgerRow
from ca.revocations import Revocation, RevocationReason
from ca.slots import Slot
from ca.state import AuthorityEntry, Phase

CRL_LIFETIME = timedelta(days=1)
"""How long an intermediate's list is good; a new one is made well before."""

_FLAGS = {reason: x509.ReasonFlags(reason.value) for reason in RevocationReason}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListIssuer:
    """An authority that owes a list, good until `good_until`; its `key` may be elsewhere."""

    certificate: x509.Certificate
    key: PrivateKey | None = field(repr=False)
    good_until: datetime


def list_issuers(slots: Iterable[Slot], keys: KeyStore, now: datetime) -> tuple[ListIssuer, ...]:
    """Return the authorities of `slots` that owe a list, the one that signs leaves first.

    Raises:
        KeyFileError: a key cannot be read.
    """
    in_order = sorted(slots, key=lambda slot: slot.phase is not Phase.ACTIVE)
    soon = now + CRL_LIFETIME
    found = [
        ListIssuer(
            certificate=slot.intermediate, key=_key(slot.entry.intermediate, keys), good_until=soon
        )
        for slot in in_order
    ]
    found += [
        ListIssuer(
            certificate=slot.root,
            key=_key(slot.entry.root, keys),
            good_until=max(soon, slot.intermediate.not_valid_after_utc),
        )
        for slot in in_order
        # Whoever signed a plugged-in CA gives out its own lists.
        if slot.entry.root.key is not None
    ]
    return tuple(each for each in found if _may_sign_lists(each.certificate))


def build_crl(
    issuer: ListIssuer,
    revoked: Iterable[tuple[LedgerRow, Revocation]],
    *,
    number: int,
    now: datetime,
) -> x509.CertificateRevocationList:
    """Return the list of `issuer`, signed: `revoked` are rows of certificates that it signed.

    Its key must be here; `number` must be greater than that of any list before.
    """
    key, certificate = issuer.key, issuer.certificate
    assert key is not None
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(certificate.subject)
        .last_update(now.replace(microsecond=0))
        .next_update(issuer.good_until.replace(microsecond=0))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
    )
    for row, revocation in revoked:
        builder = builder.add_revoked_certificate(_revoked(row, revocation))
    return builder.sign(key, signature_hash(key))


def _key(entry: AuthorityEntry, keys: KeyStore) -> PrivateKey | None:
    """Return an authority's key, None where it is elsewhere."""
    return None if entry.key is None else keys.load_key(entry.key)


def _may_sign_lists(certificate: x509.Certificate) -> bool:
    """Return whether a verifier would take a list from this authority."""
    # RFC 5280 §4.2.1.3: "If the cRLSign bit is asserted, the subject public key is used for
    # verifying signatures on certificate revocation lists"; §5.2.1 wants the key identifier.
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return False
    return usage.crl_sign


def _revoked(row: LedgerRow, revocation: Revocation) -> x509.RevokedCertificate:
    """Return one line of the list."""
    builder = (
        x509.RevokedCertificateBuilder()
        .serial_number(int(row.serial, 16))
        .revocation_date(revocation.revoked_at.replace(microsecond=0))
    )
    # RFC 5280 §5.3.1: "the reason code CRL entry extension SHOULD be absent instead of using the
    # unspecified (0) reasonCode value".
    if revocation.reason is not RevocationReason.UNSPECIFIED:
        builder = builder.add_extension(x509.CRLReason(_FLAGS[revocation.reason]), critical=False)
    return builder.build()
