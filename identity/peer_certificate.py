"""The names in a client certificate, for policies that try every one of them.

Spec: Envoy RBAC, "authenticated principal": the URI SANs, then the DNS SANs, then
the subject. A CheckRequest names only the first; the rest is in the certificate.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import unquote

from cryptography import x509

from identity.errors import CertificateError

# BUDGET: certificates whose names are remembered; a peer's certificate lasts many requests.
_REMEMBERED: Final = 1024


@lru_cache(maxsize=_REMEMBERED)
def certificate_names(pem: str) -> tuple[str, ...]:
    """Return all names of a certificate as Envoy sends it: PEM, URL-encoded.

    Raises:
        CertificateError: it cannot be read, so what it names cannot be told.
    """
    try:
        certificate = x509.load_pem_x509_certificate(unquote(pem).encode())
        names = _alternative_names(certificate)
        subject = certificate.subject.rfc4514_string()
    except (ValueError, x509.DuplicateExtension) as exc:
        raise CertificateError("the client certificate cannot be read") from exc
    return (*names, *((subject,) if subject else ()))


def _alternative_names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *found.get_values_for_type(x509.UniformResourceIdentifier),
        *found.get_values_for_type(x509.DNSName),
    )
