"""A leaf's bytes by pattern: what `ca.profile` says of leaves, encoded once for each authority.

Theory of operation. Of two leaves of one authority only the serial number, the span, the key, its
identifier and the names differ. So the library encodes one sample of the profile, signed by a key
that is thrown away; its parts are kept, and each leaf is those parts with its own five in place.
A pattern is used only if the sample's own five give the sample again, byte for byte; and what is
signed is read back and held against what was wanted, as `ca.issue` and `ca.validate` do.

Spec: X.690 §8.1 and §10.1 (DER), RFC 5280 §4.1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from ca.by_identity import by_identity
from ca.errors import SvidInvalidError
from ca.key_kinds import KeyKind, PrivateKey, PublicKey, generate_key, signature_hash
from ca.profile import Validity, build_leaf
from identity.spiffe_id import SpiffeId, TrustDomain

_INTEGER, _BIT_STRING, _OCTET_STRING, _SEQUENCE = 0x02, 0x03, 0x04, 0x30
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_URI, _DNS_NAME, _EXTENSIONS = 0x86, 0x82, 0xA3
_LONG_FORM: Final = 0x80
_P384_BITS: Final = 384
# RFC 5280 §4.1.2.5: UTCTime through the year 2049.
_FIRST_GENERALIZED_YEAR: Final = 2050
_SAMPLE_DAY: Final = datetime(2024, 2, 29, 12, 34, 56, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafFields:
    """What one leaf has of its own; `dns_names` stand after the URI, in their order."""

    serial: int
    validity: Validity
    spiffe_id: SpiffeId
    key: PublicKey = field(repr=False)
    dns_names: tuple[str, ...] = ()
    spki: bytes = field(init=False, repr=False)
    """The key as a SubjectPublicKeyInfo."""

    def __post_init__(self) -> None:
        """Encode the key, once for all who look at it."""
        der, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        object.__setattr__(self, "spki", self.key.public_bytes(der, form))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafPattern:
    """The encoded parts that the leaves of one authority share, in their order.

    `scheme` is how its key signs, None for RSA.
    """

    version: bytes
    algorithm: bytes
    issuer: bytes
    subject: bytes
    key_identifier_head: bytes
    names_head: bytes
    extensions: bytes
    scheme: ec.ECDSA | None = None

    def encode(self, leaf: LeafFields) -> bytes:
        """Return the TBSCertificate of a leaf."""
        spki = leaf.spki
        identifier = _tlv(_OCTET_STRING, _tlv(_OCTET_STRING, _key_identifier(spki)))
        extensions = (
            _tlv(_SEQUENCE, self.key_identifier_head + identifier)
            + _names_extension(self.names_head, str(leaf.spiffe_id), leaf.dns_names)
            + self.extensions
        )
        return _tlv(
            _SEQUENCE,
            self.version
            + _integer(leaf.serial)
            + self.algorithm
            + self.issuer
            + _span(leaf.validity)
            + self.subject
            + spki
            + _tlv(_EXTENSIONS, _tlv(_SEQUENCE, extensions)),
        )

    def sign(self, leaf: LeafFields, key: PrivateKey) -> bytes:
        """Return a leaf signed by the authority's `key`, as DER; nobody has checked it yet."""
        tbs = self.encode(leaf)
        if self.scheme is not None:
            signature = cast(ec.EllipticCurvePrivateKey, key).sign(tbs, self.scheme)
        else:
            rsa_key = cast(rsa.RSAPrivateKey, key)
            signature = rsa_key.sign(tbs, padding.PKCS1v15(), signature_hash(key))
        # The first octet of a bit string says how many bits of its last do not count.
        return _tlv(_SEQUENCE, tbs + self.algorithm + _tlv(_BIT_STRING, b"\0" + signature))


def leaf_pattern(issuer: x509.Certificate, key: PrivateKey) -> LeafPattern:
    """Return the pattern of the leaves that `issuer` signs with `key`.

    Raises:
        SvidInvalidError: the library encodes leaves otherwise than this file does.
    """
    return _pattern_of(issuer, type(key), key.key_size)


@by_identity
@lru_cache(maxsize=16)
def _pattern_of(issuer: x509.Certificate, kind: type[PrivateKey], key_size: int) -> LeafPattern:
    """Return the pattern that a sample gives, once it has given the sample again."""
    signer = generate_key(_kind_of(kind, key_size))
    fields = LeafFields(
        serial=2**158 - 1,
        validity=Validity(not_before=_SAMPLE_DAY, not_after=_SAMPLE_DAY + timedelta(hours=1)),
        spiffe_id=SpiffeId(TrustDomain("sample.example"), "/sample"),
        key=signer.public_key(),
        dns_names=("sample.example",),
    )
    sample = build_leaf(
        issuer, fields.spiffe_id, fields.dns_names, fields.key, fields.serial, fields.validity
    ).sign(signer, signature_hash(signer))
    is_ec = isinstance(signer, ec.EllipticCurvePrivateKey)
    scheme = ec.ECDSA(signature_hash(signer)) if is_ec else None
    pattern = _taken_apart(sample.tbs_certificate_bytes, scheme)
    if pattern.encode(fields) != sample.tbs_certificate_bytes:
        raise SvidInvalidError("the pattern of a leaf does not give its own sample")
    return pattern


def _taken_apart(tbs: bytes, scheme: ec.ECDSA | None) -> LeafPattern:
    """Return the parts of a sample: the key's identifier is the first extension, names the next."""
    version, _serial, algorithm, issuer, _validity, subject, _spki, wrapped = elements_of(tbs)
    [extensions] = elements_of(wrapped)
    identifier, names, *others = elements_of(extensions)
    return LeafPattern(
        version=version,
        algorithm=algorithm,
        issuer=issuer,
        subject=subject,
        key_identifier_head=b"".join(elements_of(identifier)[:-1]),
        names_head=b"".join(elements_of(names)[:-1]),
        extensions=b"".join(others),
        scheme=scheme,
    )


def _kind_of(kind: type[PrivateKey], key_size: int) -> KeyKind:
    """Return a kind of key that signs by the same algorithm, cheap to make."""
    if not issubclass(kind, ec.EllipticCurvePrivateKey):
        return KeyKind.RSA_2048
    return KeyKind.EC_P384 if key_size == _P384_BITS else KeyKind.EC_P256


def _key_identifier(spki: bytes) -> bytes:
    """Return a key's identifier: the SHA-1 of its bit string (RFC 5280 §4.2.1.2, method 1)."""
    algorithm = _head_length(spki)
    # An algorithm and its parameters take less than 128 octets.
    bits = algorithm + 2 + spki[algorithm + 1]
    # The bit string's tag, its length, and the octet of the bits that do not count.
    content = spki[bits + _head_length(spki[bits : bits + 2]) + 1 :]
    return hashlib.sha1(content, usedforsecurity=False).digest()


@lru_cache(maxsize=1024)
def _names_extension(head: bytes, uri: str, dns_names: tuple[str, ...]) -> bytes:
    """Return the extension of the names of a leaf; a workload's are the same again and again."""
    names = _tlv(_URI, uri.encode("ascii"))
    for name in dns_names:
        names += _tlv(_DNS_NAME, name.encode("ascii"))
    return _tlv(_SEQUENCE, head + _tlv(_OCTET_STRING, _tlv(_SEQUENCE, names)))


def _span(validity: Validity) -> bytes:
    """Return the encoded span of a certificate."""
    return _tlv(_SEQUENCE, _time(validity.not_before) + _time(validity.not_after))


@lru_cache(maxsize=64)
def _time(at: datetime) -> bytes:
    """Return an encoded moment, to the second."""
    text = at.astimezone(UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii")
    if at.year < _FIRST_GENERALIZED_YEAR:
        return _tlv(_UTC_TIME, text[2:])
    return _tlv(_GENERALIZED_TIME, text)


def _integer(value: int) -> bytes:
    """Return an encoded integer that is not negative; its highest bit is never set."""
    return _tlv(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def _tlv(tag: int, content: bytes) -> bytes:
    """Return one element: tag, length in the fewest octets, content."""
    length = len(content)
    if length < _LONG_FORM:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, _LONG_FORM | len(octets))) + octets + content


def elements_of(encoded: bytes) -> list[bytes]:
    """Return the elements within one constructed element."""
    found, at = [], len(encoded) - _content_length(encoded)
    while at < len(encoded):
        rest = encoded[at:]
        end = at + _head_length(rest) + _content_length(rest)
        found.append(encoded[at:end])
        at = end
    return found


def _head_length(encoded: bytes) -> int:
    """Return how many octets an element's tag and length take."""
    return 2 + (encoded[1] & ~_LONG_FORM if encoded[1] & _LONG_FORM else 0)


def _content_length(encoded: bytes) -> int:
    """Return how many octets an element's content takes."""
    if not encoded[1] & _LONG_FORM:
        return encoded[1]
    return int.from_bytes(encoded[2 : _head_length(encoded)])
