"""The X.509-SVID: whose chain is this, and does the bundle of that trust domain say so?

The order is the standard's: the leaf is read and judged by itself, its SPIFFE ID chooses
the bundle, and only then is a path built, to that bundle alone.

Spec: X509-SVID §2-§5; SPIFFE-ID §2; RFC 5280 §4.1.2.6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from identity.certificate_path import VerifiedPath, key_fault, verify_path
from identity.certificate_reading import (
    MAX_CHAIN_CERTIFICATES,
    ReadCertificate,
    read_certificate,
)
from identity.errors import CertificateError, SpiffeIdError
from identity.spiffe_id import SpiffeId
from identity.svid_fault import SvidFault, SvidRefusal
from identity.trust_bundle import BundleSet, TrustBundle

_BOTH_USAGES: Final = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH})
_SCHEME: Final = "spiffe:"


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """A chain that was verified. Only `verify_svid` makes one.

    `valid_from_at` and `valid_until_at` bound the times at which the whole path holds
    (aware UTC); a verdict may be remembered no longer. `dns_names` are the leaf's, and
    prove nothing: SPIFFE speaks of the SPIFFE ID only. `path` runs from the leaf to the
    bundle's authority.
    """

    spiffe_id: SpiffeId
    dns_names: tuple[str, ...]
    valid_from_at: datetime
    valid_until_at: datetime
    path: tuple[x509.Certificate, ...]


def verify_svid(
    chain: Sequence[bytes], bundles: BundleSet | TrustBundle, at: datetime
) -> X509Svid | SvidRefusal:
    """Return whose chain this is at the time `at`, or why it is nobody's. Never raises for bytes.

    `chain` is DER, the leaf first; the order of the rest does not matter, and what
    no path needs is not looked at further.
    """
    if not chain:
        return SvidRefusal(SvidFault.CHAIN_EMPTY, "there is no certificate")
    if len(chain) > MAX_CHAIN_CERTIFICATES:
        why = f"expected at most {MAX_CHAIN_CERTIFICATES} certificates, got {len(chain)}"
        return SvidRefusal(SvidFault.CHAIN_TOO_LONG, why)
    try:
        leaf, *others = (read_certificate(der) for der in chain)
    except CertificateError as exc:
        return SvidRefusal(SvidFault.MALFORMED, str(exc))
    at = at.astimezone(UTC)
    refusal = leaf_fault(leaf, at)
    if refusal is not None:
        return refusal
    spiffe_id = _spiffe_id_of(leaf)
    if isinstance(spiffe_id, SvidRefusal):
        return spiffe_id
    bundle = _bundle_of(spiffe_id, bundles)
    if isinstance(bundle, SvidRefusal):
        return bundle
    return _verify_to(bundle, spiffe_id, leaf, others, at)


def _verify_to(
    bundle: TrustBundle,
    spiffe_id: SpiffeId,
    leaf: ReadCertificate,
    others: Sequence[ReadCertificate],
    at: datetime,
) -> X509Svid | SvidRefusal:
    """Return the SVID once a path to this bundle holds."""
    if bundle.store is None:
        why = f"the bundle of `{bundle.trust_domain}` has no X.509 authority"
        return SvidRefusal(SvidFault.NO_AUTHORITY, why)
    path = verify_path(leaf, [*others, *bundle.helping], bundle.store, at)
    if isinstance(path, SvidRefusal):
        return path
    refusal = _authority_fault(path)
    if refusal is not None:
        return refusal
    return X509Svid(
        spiffe_id=spiffe_id,
        dns_names=leaf.dns_names,
        valid_from_at=max(each.not_before_at for each in path.certificates),
        valid_until_at=min(each.not_after_at for each in path.certificates),
        path=tuple(each.certificate for each in path.certificates),
    )


def leaf_fault(
    leaf: ReadCertificate,
    at: datetime,
    usages: frozenset[x509.ObjectIdentifier] = _BOTH_USAGES,
) -> SvidRefusal | None:
    """Return what keeps a certificate from being anyone's leaf at `at`, whatever it names.

    `usages` is what an extended key usage has to hold, where there is one.
    """
    # X509-SVID §4.4: "When included, `id-kp-serverAuth` and `id-kp-clientAuth` MUST be set".
    extended = leaf.extension(x509.ExtendedKeyUsage)
    if extended is not None and not set(extended.value) >= usages:
        why = "the leaf's extended key usage lacks serverAuth or clientAuth"
        return SvidRefusal(SvidFault.EXTENDED_KEY_USAGE, why)
    for check in _LEAF_CHECKS:
        refusal = check(leaf)
        if refusal is not None:
            return refusal
    if at < leaf.not_before_at:
        return SvidRefusal(SvidFault.NOT_YET_VALID, f"valid from {leaf.not_before_at.isoformat()}")
    # RFC 5280 §4.1.2.5: notAfter is inclusive, and to the second.
    if at.replace(microsecond=0) > leaf.not_after_at:
        return SvidRefusal(SvidFault.EXPIRED, f"valid until {leaf.not_after_at.isoformat()}")
    return None


def spiffe_id_of_leaf(der: bytes, at: datetime) -> SpiffeId | SvidRefusal:
    """Return the ID that a leaf names, with no word on whether anyone vouches for it.

    For where the path was verified by someone else, such as TLS.
    """
    try:
        leaf = read_certificate(der)
    except CertificateError as exc:
        return SvidRefusal(SvidFault.MALFORMED, str(exc))
    return leaf_fault(leaf, at.astimezone(UTC)) or _spiffe_id_of(leaf)


def _check_basics(leaf: ReadCertificate) -> SvidRefusal | None:
    """Version, serial number and key."""
    if not leaf.is_version_3:
        return SvidRefusal(SvidFault.MALFORMED, "the leaf is not an X.509 v3 certificate")
    if leaf.serial_number <= 0:
        return SvidRefusal(SvidFault.SERIAL_NUMBER, "the leaf's serial number is not positive")
    why = key_fault(leaf)
    return None if why is None else SvidRefusal(SvidFault.ALGORITHM, f"the leaf: {why}")


def _check_not_ca(leaf: ReadCertificate) -> SvidRefusal | None:
    """X509-SVID §5.2: "the `CA` field in the basic constraints extension is set to `false`"."""
    basic = leaf.extension(x509.BasicConstraints)
    if basic is not None and basic.value.ca:
        return SvidRefusal(SvidFault.CA_AS_LEAF, "the leaf is a CA's certificate")
    return None


def _check_key_usage(leaf: ReadCertificate) -> SvidRefusal | None:
    """X509-SVID §4.3: set, with digitalSignature, "MUST NOT set `keyCertSign` or `cRLSign`".

    WHY not "MUST be marked critical": that keeps others from passing over it, and we do not.
    """
    usage = leaf.extension(x509.KeyUsage)
    if usage is None:
        return SvidRefusal(SvidFault.KEY_USAGE, "the leaf has no key usage")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        return SvidRefusal(SvidFault.KEY_USAGE, "the leaf's key usage has keyCertSign or cRLSign")
    if not usage.value.digital_signature:
        return SvidRefusal(SvidFault.KEY_USAGE, "the leaf's key usage lacks digitalSignature")
    return None


def _check_san_criticality(leaf: ReadCertificate) -> SvidRefusal | None:
    """X509-SVID §3.1: the SAN extension "MUST be marked as critical if Subject is omitted"."""
    names = leaf.extension(x509.SubjectAlternativeName)
    if names is not None and not names.critical and not leaf.has_subject:
        why = "the subject is empty and the SAN extension is not critical"
        return SvidRefusal(SvidFault.SAN_NOT_CRITICAL, why)
    return None


_LEAF_CHECKS: Final[tuple[Callable[[ReadCertificate], SvidRefusal | None], ...]] = (
    _check_basics,
    _check_not_ca,
    _check_key_usage,
    _check_san_criticality,
)


def _spiffe_id_of(leaf: ReadCertificate) -> SpiffeId | SvidRefusal:
    """Return the one SPIFFE ID of a leaf.

    X509-SVID §2: "MUST contain exactly one URI SAN"; §5.2: "more than one URI SAN MUST
    be rejected"; §3.1: "Leaf certificate SPIFFE IDs MUST have a non-root path".
    """
    if len(leaf.uris) != 1:
        return SvidRefusal(SvidFault.URI_SAN_COUNT, f"expected 1 URI SAN, got {len(leaf.uris)}")
    try:
        spiffe_id = SpiffeId.parse(leaf.uris[0])
    except SpiffeIdError as exc:
        return SvidRefusal(SvidFault.SPIFFE_ID, f"the URI SAN is not a SPIFFE ID: {exc.why}")
    if not spiffe_id.path:
        return SvidRefusal(SvidFault.NO_PATH, f"`{spiffe_id}` names a trust domain, not a workload")
    return spiffe_id


def _bundle_of(spiffe_id: SpiffeId, bundles: BundleSet | TrustBundle) -> TrustBundle | SvidRefusal:
    """Return the bundle of the ID's own trust domain; no other is ever asked."""
    bundle: TrustBundle | None
    if isinstance(bundles, TrustBundle):
        bundle = bundles if bundles.trust_domain == spiffe_id.trust_domain else None
    else:
        bundle = bundles.bundle_for(spiffe_id.trust_domain)
    if bundle is None:
        why = f"there is no bundle of the trust domain `{spiffe_id.trust_domain}`"
        return SvidRefusal(SvidFault.NO_BUNDLE, why)
    return bundle


def _authority_fault(path: VerifiedPath) -> SvidRefusal | None:
    """Return what X509-SVID §3.2 has against a signing certificate of the path.

    "If present, the SPIFFE ID of a signing certificate MUST NOT have a path component."
    It only "SHOULD reside in the trust domain" of the leaf, so any trust domain will do;
    URIs of other schemes are the business of the PKI above.
    """
    for each in path.authorities:
        names = [uri for uri in each.uris if uri[: len(_SCHEME)].lower() == _SCHEME]
        if len(names) > 1:
            why = f"a signing certificate has {len(names)} SPIFFE IDs"
            return SvidRefusal(SvidFault.SIGNING_CERTIFICATE, why)
        try:
            has_path = any(SpiffeId.parse(name).path for name in names)
        except SpiffeIdError as exc:
            why = f"the URI SAN of a signing certificate is not a SPIFFE ID: {exc.why}"
            return SvidRefusal(SvidFault.SIGNING_CERTIFICATE, why)
        if has_path:
            why = "the SPIFFE ID of a signing certificate has a path"
            return SvidRefusal(SvidFault.SIGNING_CERTIFICATE, why)
    return None
