"""Revocation lists: what relying parties read that know no deny list.

RFC 5280 wants a list from every authority of a path: the intermediate's names the leaves that were
revoked, the root's is empty. A root that is kept offline signs no list; its own has to come from
where its key is.

Spec: RFC 5280 §5 (CRL profile), §5.2.3 (CRL number), §5.3.1 (reason).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from cryptography import x509

from ca.key_kinds import PrivateKey, signature_hash
from ca.ledger import LedgerRow
from ca.revocations import Revocation, RevocationReason

CRL_LIFETIME = timedelta(days=1)
"""How long a list is good; a new one is made well before."""

_FLAGS = {reason: x509.ReasonFlags(reason.value) for reason in RevocationReason}


def build_crl(
    issuer: x509.Certificate,
    key: PrivateKey,
    revoked: Iterable[tuple[LedgerRow, Revocation]],
    *,
    number: int,
    now: datetime,
) -> x509.CertificateRevocationList:
    """Return the list of `issuer`, signed: `revoked` are rows of certificates that it signed.

    `number` must be greater than that of any list before.
    """
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now.replace(microsecond=0))
        .next_update((now + CRL_LIFETIME).replace(microsecond=0))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
    )
    for row, revocation in revoked:
        builder = builder.add_revoked_certificate(_revoked(row, revocation))
    return builder.sign(key, signature_hash(key))


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
