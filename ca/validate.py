"""The check of our own output: is this an X.509-SVID, and does it chain to these roots?

One requirement per statement, in the order of the standard. It reads the certificates back from
their bytes, so that what is checked is what a peer will see. It is stricter than a verifier has to
be: Envoy accepts two URI SANs and expired leaves, so the issuing side must be the strict one.

Spec: X509-SVID §2-§5, RFC 5280 §4.1.2.6 and §6.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.errors import KeyRefusedError, SvidInvalidError
from ca.key_kinds import PublicKey, check_public_key
from ca.svid import X509Svid
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_MAX_SERIAL_BITS = 160
_BOTH_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def verify_x509_svid(svid: X509Svid, roots: Sequence[x509.Certificate], *, now: datetime) -> None:
    """Return when `svid` may be handed out under `roots` at `now`.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    verify_issued(svid.chain, svid.spiffe_id, svid.key.public_key(), roots, now=now)


def verify_issued(
    issued: Sequence[x509.Certificate],
    spiffe_id: SpiffeId,
    key: PublicKey,
    roots: Sequence[x509.Certificate],
    *,
    now: datetime,
) -> None:
    """Return when the chain `issued` is an X.509-SVID of `spiffe_id` for the holder of `key`.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    if not issued:
        raise SvidInvalidError("expected a certificate, got none")
    authorities = tuple(issued[1:])
    above = _read_back_authorities(authorities) if authorities else ()
    chain = (*_read_back(tuple(issued[:1])), *above)
    verify_leaf(chain[0], spiffe_id)
    if _spki(chain[0].public_key()) != _spki(key):
        raise SvidInvalidError("the private key does not belong to the leaf")
    verify_chain(chain, _read_back_authorities(tuple(roots)), now=now)


def verify_leaf(leaf: x509.Certificate, spiffe_id: SpiffeId) -> None:
    """Return when `leaf` is shaped as the X.509-SVID of exactly `spiffe_id`.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    _verify_names(leaf, spiffe_id)
    _verify_leaf_usage(leaf)
    if not 0 < leaf.serial_number.bit_length() <= _MAX_SERIAL_BITS:
        raise SvidInvalidError("the serial number is not between 1 and 160 bits long")
    try:
        check_public_key(leaf.public_key())
    except KeyRefusedError as exc:
        raise SvidInvalidError(f"of the leaf, {exc}") from exc


def verify_authority(certificate: x509.Certificate, trust_domain_id: str, *, below: int) -> None:
    """Return when `certificate` may sign with `below` further authorities under it.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    # X509-SVID §4.1: signing certificates set cA true; RFC 5280 §6.1.4 (m): pathLen holds.
    basic = _extension(certificate, x509.BasicConstraints).value
    if not basic.ca:
        raise SvidInvalidError("an issuer's certificate is not a CA's")
    if basic.path_length is not None and basic.path_length < below:
        raise SvidInvalidError(f"path length {basic.path_length} is exceeded, got {below}")
    # X509-SVID §4.3: signing certificates set keyCertSign; the extension is critical.
    usage = _extension(certificate, x509.KeyUsage)
    if not usage.critical or not usage.value.key_cert_sign:
        raise SvidInvalidError("an issuer's certificate lacks a critical keyCertSign")
    # X509-SVID §3: its SPIFFE ID is the trust domain's, without a path; a plugged-in authority's
    # certificate may have none ("SHOULD").
    if _names_of(certificate) not in ([], [trust_domain_id]):
        raise SvidInvalidError(f"an issuer's certificate does not name `{trust_domain_id}`")


def verify_chain(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate], *, now: datetime
) -> None:
    """Return when each certificate is signed by the next, the last by a root, and all are in force.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    path = (*chain, _issuing_root(chain[-1], roots))
    trust_domain_id = f"spiffe://{_one_uri(chain[0]).trust_domain}"
    for certificate in path:
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise SvidInvalidError("a certificate of the chain is not in its validity")
    for depth, (certificate, issuer) in enumerate(pairwise(path)):
        is_issued = _is_issued_by if depth == 0 else _is_authority_issued_by
        if not is_issued(certificate, issuer):
            raise SvidInvalidError("a certificate of the chain is not signed by the next")
        _verify_authority_once(issuer, trust_domain_id, depth)


def _verify_names(leaf: x509.Certificate, spiffe_id: SpiffeId) -> None:
    """Check the subject alternative name against the identity that was authorised."""
    names = _extension(leaf, x509.SubjectAlternativeName)
    # RFC 5280 §4.1.2.6: an empty subject needs a critical SAN.
    if not leaf.subject.rdns and not names.critical:
        raise SvidInvalidError("the subject is empty and the SAN extension is not critical")
    # X509-SVID §3: a leaf's SPIFFE ID has a non-root path.
    found = _one_uri(leaf)
    if not found.path:
        raise SvidInvalidError("the leaf's SPIFFE ID has no path")
    if found != spiffe_id:
        raise SvidInvalidError(f"the leaf names `{found}`, expected `{spiffe_id}`")


def _verify_leaf_usage(leaf: x509.Certificate) -> None:
    """Check what the leaf's key may be used for."""
    # X509-SVID §4.1: leaves set cA false.
    if _extension(leaf, x509.BasicConstraints).value.ca:
        raise SvidInvalidError("the leaf is a CA's certificate")
    # X509-SVID §4.3: present and critical, digitalSignature, never keyCertSign nor cRLSign.
    usage = _extension(leaf, x509.KeyUsage)
    if not usage.critical:
        raise SvidInvalidError("the key usage extension is not critical")
    if not usage.value.digital_signature:
        raise SvidInvalidError("the key usage lacks digitalSignature")
    if usage.value.key_cert_sign or usage.value.crl_sign:
        raise SvidInvalidError("the leaf's key usage lets it sign certificates")
    # X509-SVID §4.4: serverAuth and clientAuth, both.
    if not set(_extension(leaf, x509.ExtendedKeyUsage).value) >= _BOTH_USAGES:
        raise SvidInvalidError("the extended key usage lacks serverAuth or clientAuth")


def _one_uri(certificate: x509.Certificate) -> SpiffeId:
    """Return the one SPIFFE ID in a certificate."""
    # X509-SVID §2: exactly one URI SAN.
    uris = _uris(certificate)
    if len(uris) != 1:
        raise SvidInvalidError(f"expected 1 URI SAN, got {len(uris)}")
    try:
        return SpiffeId.parse(uris[0])
    except SpiffeIdError as exc:
        raise SvidInvalidError(str(exc)) from exc


def _uris(certificate: x509.Certificate) -> list[str]:
    """Return the URI SANs of a certificate."""
    names = _extension(certificate, x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def _names_of(certificate: x509.Certificate) -> list[str]:
    """Return the URI SANs of an issuer's certificate, which may have no SAN at all."""
    try:
        return _uris(certificate) if _has_names(certificate) else []
    except ValueError as exc:
        raise SvidInvalidError("an issuer's extensions cannot be read") from exc


def _has_names(certificate: x509.Certificate) -> bool:
    """Return whether a certificate has a SAN extension."""
    kind = x509.SubjectAlternativeName
    return any(isinstance(found.value, kind) for found in certificate.extensions)


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> x509.Extension[_Extension]:
    """Return an extension that must be there."""
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as exc:
        raise SvidInvalidError(f"a certificate has no single, readable {kind.__name__}") from exc


def _issuing_root(
    certificate: x509.Certificate, roots: Sequence[x509.Certificate]
) -> x509.Certificate:
    """Return the root that signed `certificate`."""
    for root in roots:
        if _is_authority_issued_by(certificate, root):
            return root
    raise SvidInvalidError("the chain does not end at a trusted root")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether `issuer` is named in, and signed, `certificate`."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


# An authority signs thousands of leaves: what a signature of its own certificate is worth does not
# change from one to the next. Validity does, and is never remembered.
_is_authority_issued_by = lru_cache(maxsize=64)(_is_issued_by)


@lru_cache(maxsize=64)
def _verify_authority_once(certificate: x509.Certificate, trust_domain_id: str, below: int) -> None:
    """Check what of an authority's certificate never changes; what fails is not remembered."""
    verify_authority(certificate, trust_domain_id, below=below)


@lru_cache(maxsize=64)
def _read_back_authorities(
    certificates: tuple[x509.Certificate, ...],
) -> tuple[x509.Certificate, ...]:
    """Return authorities as a peer reads them from their bytes."""
    return _read_back(certificates)


def _read_back(certificates: tuple[x509.Certificate, ...]) -> tuple[x509.Certificate, ...]:
    """Return the certificates as a peer reads them from their bytes."""
    if not certificates:
        raise SvidInvalidError("expected a certificate, got none")
    return tuple(
        x509.load_der_x509_certificate(c.public_bytes(serialization.Encoding.DER))
        for c in certificates
    )


def _spki(key: object) -> bytes:
    """Return a public key as bytes that can be compared."""
    try:
        public = check_public_key(key)
    except KeyRefusedError as exc:
        raise SvidInvalidError(str(exc)) from exc
    return public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
