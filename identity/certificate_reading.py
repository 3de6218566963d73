"""Certificates from bytes nobody vouches for: read whole, or refused with one reason.

`cryptography` reads names, keys and extensions only when they are asked for, and fails
in a dozen ways then. Here everything is asked for at once, so that nothing later fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from identity.errors import CertificateError

# BUDGET: an X.509-SVID is about 1 KiB, and 4 KiB with large RSA keys and many names.
MAX_CERTIFICATE_BYTES: Final = 16 * 1024
# BUDGET: chains are 1 to 4 certificates long; a header of Envoy's would not hold this many.
MAX_CHAIN_CERTIFICATES: Final = 16
# BUDGET: a bundle in the middle of a rotation holds a handful of roots, public ones 150.
MAX_PEM_CERTIFICATES: Final = 500
_PEM_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

# What reading hostile bytes with `cryptography` has been seen to raise. The warning is
# among them because the filters of a process may turn it into an error.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    KeyError,
    OverflowError,
    NotImplementedError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    UserWarning,
)


@dataclass(frozen=True, slots=True)
class ReadCertificate:
    """A certificate of which every part was read without error; believed in nothing yet."""

    certificate: x509.Certificate
    extensions: x509.Extensions
    public_key: CertificatePublicKeyTypes
    uris: tuple[str, ...]
    dns_names: tuple[str, ...]
    not_before_at: datetime
    not_after_at: datetime
    serial_number: int
    is_version_3: bool
    has_subject: bool

    def extension(self, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
        """Return the extension of that kind, or None."""
        try:
            return self.extensions.get_extension_for_class(kind)
        except x509.ExtensionNotFound:
            return None


def read_certificate(der: bytes) -> ReadCertificate:
    """Return a certificate with all its parts.

    Raises:
        CertificateError: the bytes are no certificate, or a part of it cannot be read.
    """
    if len(der) > MAX_CERTIFICATE_BYTES:
        raise CertificateError(f"a certificate is longer than {MAX_CERTIFICATE_BYTES} bytes")
    try:
        return read_parts(x509.load_der_x509_certificate(bytes(der)))
    except _UNREADABLE as exc:
        raise CertificateError(f"a certificate cannot be read: {type(exc).__name__}") from exc


def read_parts(certificate: x509.Certificate) -> ReadCertificate:
    """Return a loaded certificate with all its parts.

    Raises:
        CertificateError: a part of it cannot be read.
    """
    try:
        extensions = certificate.extensions
        uris, dns_names = _names(extensions)
        return ReadCertificate(
            certificate=certificate,
            extensions=extensions,
            public_key=certificate.public_key(),
            uris=uris,
            dns_names=dns_names,
            not_before_at=certificate.not_valid_before_utc,
            not_after_at=certificate.not_valid_after_utc,
            serial_number=certificate.serial_number,
            is_version_3=certificate.version is x509.Version.v3,
            has_subject=bool(certificate.subject.rdns),
        )
    except _UNREADABLE as exc:
        raise CertificateError(f"a certificate cannot be read: {type(exc).__name__}") from exc


def _names(extensions: x509.Extensions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the URI and the DNS names of a certificate, as they are written."""
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return tuple(uris), tuple(names.get_values_for_type(x509.DNSName))


def split_pem(pem: bytes) -> tuple[bytes, ...]:
    """Return the DER of every certificate in a PEM text, in its order.

    Raises:
        CertificateError: there is no certificate in it, too many, or one cannot be read.
    """
    if pem.count(_PEM_BEGIN) > MAX_PEM_CERTIFICATES:
        raise CertificateError(f"a PEM text holds more than {MAX_PEM_CERTIFICATES} certificates")
    try:
        found = x509.load_pem_x509_certificates(pem)
        return tuple(each.public_bytes(serialization.Encoding.DER) for each in found)
    except _UNREADABLE as exc:
        raise CertificateError(f"a PEM text cannot be read: {type(exc).__name__}") from exc
