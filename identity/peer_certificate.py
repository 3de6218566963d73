"""The certificate that Envoy sends with a check, for policies that try every name in it.

Spec: Envoy RBAC, "authenticated principal": the URI SANs, then the DNS SANs, then
the subject. A CheckRequest names only the first; the rest is in the certificate.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from identity.certificate_reading import read_certificate, split_pem
from identity.envoy_subject import common_names, subject_text
from identity.errors import CertificateError

# BUDGET: certificates whose names are remembered; a peer's certificate lasts many requests.
_REMEMBERED: Final = 1024
# BUDGET: a chain of the most certificates that are read, each with every byte encoded.
_MAX_CHARACTERS: Final = 256 * 1024
_PERCENT: Final = re.compile(r"%([0-9A-Fa-f]{2})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerCertificate:
    """A client's certificate, read and believed in nothing: `chain` is DER, the leaf first.

    `subject` is as Envoy prints it, `sha256` the lower-case hex digest of the leaf.
    """

    chain: tuple[bytes, ...]
    uris: tuple[str, ...]
    dns_names: tuple[str, ...]
    subject: str
    common_names: tuple[str, ...]
    sha256: str

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, in the order in which Envoy's RBAC tries them."""
        return (*self.uris, *self.dns_names, *((self.subject,) if self.subject else ()))

    @property
    def principal(self) -> str:
        """The name Envoy reports for it; empty when it has none."""
        return self.names[0] if self.names else ""


@lru_cache(maxsize=_REMEMBERED)
def read_peer_certificate(encoded: str) -> PeerCertificate:
    """Return a certificate as Envoy sends it: PEM, URL-encoded, perhaps with its chain.

    Raises:
        CertificateError: it cannot be read, so what it names cannot be told.
    """
    if len(encoded) > _MAX_CHARACTERS:
        raise CertificateError(f"the certificate is longer than {_MAX_CHARACTERS} characters")
    return certificate_from_pem(_decoded(encoded))


def certificate_from_pem(pem: str) -> PeerCertificate:
    """Return the certificate of a PEM text, the leaf first.

    Raises:
        CertificateError: it cannot be read, so what it names cannot be told.
    """
    if not pem.isascii():
        raise CertificateError("a PEM text holds characters that are not ASCII")
    return certificate_from_chain(split_pem(pem.encode("ascii")))


def certificate_from_chain(chain: tuple[bytes, ...]) -> PeerCertificate:
    """Return the certificate of a chain of DER, the leaf first.

    Raises:
        CertificateError: there is none, or it cannot be read.
    """
    if not chain:
        raise CertificateError("there is no certificate")
    leaf = read_certificate(chain[0])
    try:
        subject = leaf.certificate.subject
        text, commons = subject_text(subject), common_names(subject)
    except (ValueError, TypeError, KeyError) as exc:
        raise CertificateError("the subject of a certificate cannot be read") from exc
    return PeerCertificate(
        chain=chain,
        uris=leaf.uris,
        dns_names=leaf.dns_names,
        subject=text,
        common_names=commons,
        sha256=hashlib.sha256(chain[0]).hexdigest(),
    )


def _decoded(encoded: str) -> str:
    """Return the text behind Envoy's URL encoding, in which `+` is a plus."""
    if any(not digits for digits in _PERCENT.findall(encoded)):
        raise CertificateError("the certificate holds a `%` without two hex digits behind it")
    return _PERCENT.sub(lambda found: chr(int(found.group(1), 16)), encoded)
