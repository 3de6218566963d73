"""The check of our own output: is this an X.509-SVID, and does it chain to these roots?

One requirement per statement, in the order of the standard. It reads the certificates back from
their bytes, so that what is checked is what a peer will see. It is stricter than a verifier has to
be: Envoy accepts two URI SANs and expired leaves, so the issuing side must be the strict one.

Spec: X509-SVID §2-§5, RFC 5280 §4.1.2.6 and §6.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from ca.by_identity import by_identity
from ca.errors import KeyRefusedError, SvidInvalidError
from ca.key_kinds import PublicKey, check_public_key
from ca.leaf_form import LeafForm, form_of
from ca.leaf_pattern import LeafFields
from ca.svid import X509Svid
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId, TrustDomain

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_MAX_SERIAL_BITS = 160
_LEAF_EXTENSIONS = {
    *(x509.SubjectKeyIdentifier, x509.SubjectAlternativeName, x509.BasicConstraints),
    *(x509.KeyUsage, x509.ExtendedKeyUsage, x509.AuthorityKeyIdentifier),
}
# BUDGET: forms that are kept, some 1.5 KiB each.
_MAX_FORMS = 1024
# INVARIANT: a form holds the tuples by whose places it is found, so nothing else can be there.
_forms: dict[tuple[int, int, str, tuple[str, ...]], LeafForm] = {}
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
    if chain[0].public_key() != key:
        raise SvidInvalidError("the private key does not belong to the leaf")
    verify_chain(chain, spiffe_id.trust_domain, _read_back_authorities(tuple(roots)), now=now)


def read_made(
    encoded: bytes,
    wanted: LeafFields,
    authorities: tuple[x509.Certificate, ...],
    roots: tuple[x509.Certificate, ...],
    *,
    now: datetime,
) -> x509.Certificate:
    """Return the leaf that was just signed, read from its bytes, when it is an X.509-SVID under
    `authorities` and holds what was `wanted` and no more.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    leaf = _read(encoded)
    key = (id(authorities), id(roots), str(wanted.spiffe_id), wanted.dns_names)
    form = _forms.get(key)
    if form is not None and form.fits(leaf, encoded, wanted, now):
        return leaf
    extensions = _Extensions(leaf)
    _verify_leaf(leaf, extensions, wanted.spiffe_id)
    _verify_as_wanted(leaf, extensions, wanted)
    above = _read_back_authorities(authorities) if authorities else ()
    domain = wanted.spiffe_id.trust_domain
    issuers = _verify_signed(leaf, above, domain, _read_back_authorities(roots), now=now)
    form = form_of(encoded, wanted, authorities, roots, issuers)
    if form is not None:
        if len(_forms) >= _MAX_FORMS:
            _forms.clear()
        _forms[key] = form
    return leaf


def verify_leaf(leaf: x509.Certificate, spiffe_id: SpiffeId) -> None:
    """Return when `leaf` is shaped as the X.509-SVID of exactly `spiffe_id`.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    _verify_leaf(leaf, _Extensions(leaf), spiffe_id)


def _verify_leaf(leaf: x509.Certificate, extensions: _Extensions, spiffe_id: SpiffeId) -> None:
    """Check all of a leaf that needs no other certificate."""
    # RFC 5280 §4.1.2.1: "When extensions are used, as expected in this profile, version MUST be 3".
    if leaf.version is not x509.Version.v3:
        raise SvidInvalidError("the leaf is not a certificate of version 3")
    _verify_names(leaf, extensions, spiffe_id)
    _verify_leaf_usage(extensions)
    if not 0 < leaf.serial_number.bit_length() <= _MAX_SERIAL_BITS:
        raise SvidInvalidError("the serial number is not between 1 and 160 bits long")
    try:
        check_public_key(leaf.public_key())
    except KeyRefusedError as exc:
        raise SvidInvalidError(f"of the leaf, {exc}") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise SvidInvalidError("the leaf's key cannot be read") from exc


def verify_authority(certificate: x509.Certificate, trust_domain_id: str, *, below: int) -> None:
    """Return when `certificate` may sign with `below` further authorities under it.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    # X509-SVID §4.1: signing certificates set cA true; RFC 5280 §6.1.4 (m): pathLen holds.
    extensions = _Extensions(certificate)
    basic = extensions.value(x509.BasicConstraints)
    if not basic.ca:
        raise SvidInvalidError("an issuer's certificate is not a CA's")
    if basic.path_length is not None and basic.path_length < below:
        raise SvidInvalidError(f"path length {basic.path_length} is exceeded, got {below}")
    # X509-SVID §4.3: signing certificates set keyCertSign; the extension is critical.
    usage = extensions.one(x509.KeyUsage)
    if not usage.critical or not usage.value.key_cert_sign:
        raise SvidInvalidError("an issuer's certificate lacks a critical keyCertSign")
    # X509-SVID §3: its SPIFFE ID is the trust domain's, without a path; a plugged-in authority's
    # certificate may have none ("SHOULD").
    if extensions.uris() not in ([], [trust_domain_id]):
        raise SvidInvalidError(f"an issuer's certificate does not name `{trust_domain_id}`")


def verify_chain(
    chain: Sequence[x509.Certificate],
    trust_domain: TrustDomain,
    roots: Sequence[x509.Certificate],
    *,
    now: datetime,
) -> None:
    """Return when each certificate is signed by the next, the last by a root, and all are in force.

    The authorities are those of `trust_domain`.

    Raises:
        SvidInvalidError: naming the first requirement it breaks.
    """
    _verify_signed(chain[0], tuple(chain[1:]), trust_domain, tuple(roots), now=now)


def _verify_signed(
    leaf: x509.Certificate,
    above: tuple[x509.Certificate, ...],
    trust_domain: TrustDomain,
    roots: tuple[x509.Certificate, ...],
    *,
    now: datetime,
) -> tuple[x509.Certificate, ...]:
    """Check all of a leaf that its authorities decide; return these, nearest first."""
    if above:
        issuers = _issuers_above(above, roots, trust_domain)
    else:
        issuers = (_issuing_root(leaf, roots),)
        verify_authority(issuers[0], f"spiffe://{trust_domain}", below=0)
    for certificate in (leaf, *issuers):
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise SvidInvalidError("a certificate of the chain is not in its validity")
    if above and not _is_issued_by(leaf, issuers[0]):
        raise SvidInvalidError("a certificate of the chain is not signed by the next")
    return issuers


def _verify_names(leaf: x509.Certificate, extensions: _Extensions, spiffe_id: SpiffeId) -> None:
    """Check the subject alternative name against the identity that was authorised."""
    is_critical = extensions.one(x509.SubjectAlternativeName).critical
    # RFC 5280 §4.1.2.6: an empty subject needs a critical SAN.
    if not is_critical and not leaf.subject.rdns:
        raise SvidInvalidError("the subject is empty and the SAN extension is not critical")
    # X509-SVID §2: exactly one URI SAN.
    uris = extensions.uris()
    if len(uris) != 1:
        raise SvidInvalidError(f"expected 1 URI SAN, got {len(uris)}")
    # An ID has one spelling only (`identity.spiffe_id`), so texts are compared.
    if uris[0] != str(spiffe_id) or not spiffe_id.path:
        raise _wrong_name(uris[0], spiffe_id)


def _wrong_name(found: str, expected: SpiffeId) -> SvidInvalidError:
    """Return what is wrong with the URI of a leaf."""
    try:
        spiffe_id = SpiffeId.parse(found)
    except SpiffeIdError as exc:
        return SvidInvalidError(str(exc))
    # X509-SVID §3: a leaf's SPIFFE ID has a non-root path.
    if not spiffe_id.path:
        return SvidInvalidError("the leaf's SPIFFE ID has no path")
    return SvidInvalidError(f"the leaf names `{spiffe_id}`, expected `{expected}`")


def _verify_leaf_usage(extensions: _Extensions) -> None:
    """Check what the leaf's key may be used for."""
    # X509-SVID §4.1: leaves set cA false.
    if extensions.value(x509.BasicConstraints).ca:
        raise SvidInvalidError("the leaf is a CA's certificate")
    # X509-SVID §4.3: present and critical, digitalSignature, never keyCertSign nor cRLSign.
    if not extensions.one(x509.KeyUsage).critical:
        raise SvidInvalidError("the key usage extension is not critical")
    usage = extensions.value(x509.KeyUsage)
    if not usage.digital_signature:
        raise SvidInvalidError("the key usage lacks digitalSignature")
    if usage.key_cert_sign or usage.crl_sign:
        raise SvidInvalidError("the leaf's key usage lets it sign certificates")
    # X509-SVID §4.4: serverAuth and clientAuth, both.
    if not set(extensions.value(x509.ExtendedKeyUsage)) >= _BOTH_USAGES:
        raise SvidInvalidError("the extended key usage lacks serverAuth or clientAuth")


def _verify_as_wanted(leaf: x509.Certificate, extensions: _Extensions, wanted: LeafFields) -> None:
    """Check that what was drawn and granted for this leaf is in it, and nothing else."""
    if leaf.public_key() != wanted.key:
        raise SvidInvalidError("the private key does not belong to the leaf")
    if leaf.serial_number != wanted.serial:
        raise SvidInvalidError("the serial number is not the one that was drawn")
    span = (wanted.validity.not_before, wanted.validity.not_after)
    if (leaf.not_valid_before_utc, leaf.not_valid_after_utc) != span:
        raise SvidInvalidError("the validity is not the one that was granted")
    names: list[tuple[Any, str]] = [(x509.UniformResourceIdentifier, str(wanted.spiffe_id))]
    names += [(x509.DNSName, name) for name in wanted.dns_names]
    found = extensions.value(x509.SubjectAlternativeName)
    if [(type(name), name.value) for name in found] != names:
        raise SvidInvalidError("the names are not those that were granted")
    if extensions.kinds() != _LEAF_EXTENSIONS:
        raise SvidInvalidError("the leaf holds more than its profile")


class _Extensions:
    """The extensions of a certificate, read once."""

    __slots__ = ("_by_kind", "_values")

    def __init__(self, certificate: x509.Certificate) -> None:
        """Read those of `certificate`."""
        try:
            found = certificate.extensions
        except (x509.DuplicateExtension, ValueError) as exc:
            raise SvidInvalidError("a certificate has no single, readable extensions") from exc
        read = [(each.value, each) for each in found]
        # By the kind: those that the library does not know are all of one.
        self._values: dict[Any, Any] = {type(value): value for value, _ in read}
        self._by_kind = {type(value): each for value, each in read}

    def kinds(self) -> Set[type]:
        """Return which there are."""
        return self._by_kind.keys()

    def one(self, kind: type[_Extension]) -> x509.Extension[_Extension]:
        """Return an extension that must be there."""
        found: Any = self._by_kind.get(kind)
        if found is None:
            raise SvidInvalidError(f"a certificate has no single, readable {kind.__name__}")
        extension: x509.Extension[_Extension] = found
        return extension

    def value(self, kind: type[_Extension]) -> _Extension:
        """Return the content of an extension that must be there."""
        found = self._values.get(kind)
        if found is None:
            raise SvidInvalidError(f"a certificate has no single, readable {kind.__name__}")
        value: _Extension = found
        return value

    def uris(self) -> list[str]:
        """Return the URI SANs; an issuer's certificate may have no SAN at all."""
        names: x509.SubjectAlternativeName | None = self._values.get(x509.SubjectAlternativeName)
        if names is None:
            return []
        return names.get_values_for_type(x509.UniformResourceIdentifier)


def _issuing_root(
    certificate: x509.Certificate, roots: Sequence[x509.Certificate]
) -> x509.Certificate:
    """Return the root that signed `certificate`."""
    for root in roots:
        if _is_issued_by(certificate, root):
            return root
    raise SvidInvalidError("the chain does not end at a trusted root")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether `issuer` is named in, and signed, `certificate`."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


@by_identity
@lru_cache(maxsize=64)
def _issuers_above(
    above: tuple[x509.Certificate, ...],
    roots: tuple[x509.Certificate, ...],
    trust_domain: TrustDomain,
) -> tuple[x509.Certificate, ...]:
    """Return the authorities `above` a leaf with their root, once each is checked.

    An authority signs thousands of leaves, and what its own certificate is worth does not change
    from one to the next. Whether it is in its validity does, and is not looked at here. What fails
    is not remembered.
    """
    issuers = (*above, _issuing_root(above[-1], roots))
    for certificate, issuer in pairwise(issuers):
        if not _is_issued_by(certificate, issuer):
            raise SvidInvalidError("a certificate of the chain is not signed by the next")
    for below, issuer in enumerate(issuers):
        verify_authority(issuer, f"spiffe://{trust_domain}", below=below)
    return issuers


@by_identity
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
    return tuple(_read(c.public_bytes(serialization.Encoding.DER)) for c in certificates)


def _read(encoded: bytes) -> x509.Certificate:
    """Return a certificate as a peer reads it."""
    try:
        return x509.load_der_x509_certificate(encoded)
    except (ValueError, x509.InvalidVersion) as exc:
        raise SvidInvalidError("a certificate cannot be read from its bytes") from exc
