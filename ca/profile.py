"""What each kind of certificate holds, written down once: root, intermediate, X.509-SVID leaf.

Spec: X509-SVID §2-§4 and its appendix A; RFC 5280 §4.1.2 and §4.2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ca.by_identity import by_identity
from ca.key_kinds import PublicKey, check_public_key
from identity.spiffe_id import SpiffeId, TrustDomain

BACKDATE = timedelta(seconds=60)
"""How far a certificate's start lies in the past, for clocks that run behind ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """The span in which a certificate counts, to the second as X.509 keeps it."""

    not_before: datetime
    not_after: datetime

    @classmethod
    def of(cls, now: datetime, lifetime: timedelta, issuer: x509.Certificate | None) -> Validity:
        """Return a span that starts a little before `now` and never exceeds the issuer's."""
        not_before, not_after = now - BACKDATE, now + lifetime
        if issuer is not None:
            not_before = max(not_before, issuer.not_valid_before_utc)
            not_after = min(not_after, issuer.not_valid_after_utc)
        return cls(
            not_before=not_before.replace(microsecond=0), not_after=not_after.replace(microsecond=0)
        )


def build_root(
    trust_domain: TrustDomain, key: PublicKey, serial: int, validity: Validity
) -> x509.CertificateBuilder:
    """Return an unsigned root that may have one tier of authorities below it."""
    subject = _authority_name("root", serial)
    return (
        _authority(trust_domain, key, serial, validity, path_length=1)
        .subject_name(subject)
        .issuer_name(subject)
    )


def build_intermediate(
    root: x509.Certificate,
    trust_domain: TrustDomain,
    key: PublicKey,
    serial: int,
    validity: Validity,
) -> x509.CertificateBuilder:
    """Return an unsigned intermediate that may sign leaves and nothing else."""
    builder = _authority(trust_domain, key, serial, validity, path_length=0)
    return (
        builder.subject_name(_authority_name("intermediate", serial))
        .issuer_name(root.subject)
        .add_extension(_authority_key_identifier(root), critical=False)
    )


def build_leaf(
    issuer: x509.Certificate,
    spiffe_id: SpiffeId,
    dns_names: tuple[str, ...],
    key: PublicKey,
    serial: int,
    validity: Validity,
) -> x509.CertificateBuilder:
    """Return an unsigned X.509-SVID for `spiffe_id`."""
    # X509-SVID §2: "An X.509 SVID MUST contain exactly one URI SAN".
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(spiffe_id))]
    names += [x509.DNSName(name) for name in dns_names]
    return (
        _dated(key, serial, validity)
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        # RFC 5280 §4.1.2.6: with an empty subject the SAN extension is critical.
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # X509-SVID §4.3: key usage is set and critical; leaves set digitalSignature and
        # must not set keyCertSign or cRLSign.
        .add_extension(_key_usage(digital_signature=True), critical=True)
        # X509-SVID §4.4: both id-kp-serverAuth and id-kp-clientAuth.
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(_authority_key_identifier(issuer), critical=False)
    )


def _authority(
    trust_domain: TrustDomain,
    key: PublicKey,
    serial: int,
    validity: Validity,
    *,
    path_length: int,
) -> x509.CertificateBuilder:
    """Return what roots and intermediates share."""
    # X509-SVID §3: a signing certificate's SPIFFE ID has no path and is its trust domain's.
    name = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        _dated(key, serial, validity)
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )


def _dated(key: PublicKey, serial: int, validity: Validity) -> x509.CertificateBuilder:
    """Return a builder with what every certificate has: key, serial, span, key identifier."""
    return (
        x509.CertificateBuilder()
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _authority_name(tier: str, serial: int) -> x509.Name:
    """Return a subject no two authorities share, so that a chain can be built one way only."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Meshwarden"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Meshwarden {tier} CA"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{serial:040x}"),
        ]
    )


def key_identifier(issuer: x509.Certificate) -> bytes:
    """Return the key identifier that the certificates signed by `issuer` cite."""
    return _authority_key_identifier(issuer).key_identifier or b""


@by_identity
@lru_cache(maxsize=64)
def _authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Return the issuer's own key identifier, as its children cite it."""
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        # A plugged-in authority may have none: RFC 5280 §4.2.1.2, method 1, then.
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(
            check_public_key(issuer.public_key())
        )
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    """Return a key usage with only the bits that this house ever sets."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
