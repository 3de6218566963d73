"""A leaf read back by its form: what stands in it beside its own five fields was read before.

Theory of operation. Of two leaves of one workload under one authority only the serial number, the
span, the key, its identifier and the signature differ. The first is read by the library, and every
requirement is held against it (`ca.validate`); all its other bytes are kept, which decide names,
usage, extensions, issuer and algorithms. In the next leaf those bytes must be the same, at the same
places; its own fields are read and checked each time, and the signature is verified. What does not
fit the form in any way is read the long way, which says what is wrong with it, or that nothing is.

INVARIANT: a leaf that fits is one that the long way accepts.

Spec: X.690 §8.1 (lengths), RFC 5280 §4.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from ca.leaf_pattern import LeafFields, elements_of

_MAX_SERIAL_BITS: Final = 160
# A sequence whose length takes two octets, as that of a leaf and of its TBSCertificate does.
_LONG_SEQUENCE: Final = b"\x30\x82"
# Where the TBSCertificate begins, what it begins with (the version, in five octets), and the serial
# number behind that.
_TBS_AT: Final = 4
_VERSION_AT: Final = 8
_SERIAL_AT: Final = 13
_VERSION_3: Final = bytes.fromhex("a003020102")
# Serial number, algorithm, issuer, span, subject, key, extensions.
_FIELDS: Final = 7
_SHORT_HEAD: Final = 2
_IDENTIFIER_BYTES: Final = 20
_BIT_STRING: Final = b"\x03"
# RFC 5280 §4.2.1.2: id-ce-subjectKeyIdentifier.
_KEY_IDENTIFIER: Final = bytes.fromhex("0603551d0e")

Authorities = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafForm:
    """What the leaves of one workload under one authority share; `since` and `until` are when all
    of `authorities` and their root are in force.

    The bytes stand in this order, with what a leaf has of its own between them: the serial number
    after `to_serial`, `span_bytes` of the span after `to_span`, `point_bytes` of the key after
    `to_point` (whose end is `key_head`), the key's identifier after `to_identifier`.
    """

    authorities: Authorities
    roots: Authorities
    key: ec.EllipticCurvePublicKey
    scheme: ec.ECDSA
    since: datetime
    until: datetime
    to_serial: bytes
    to_span: bytes
    span_bytes: int
    to_point: bytes
    key_head: bytes
    point_bytes: int
    to_identifier: bytes
    rest: bytes
    algorithm: bytes

    def fits(
        self, leaf: x509.Certificate, encoded: bytes, wanted: LeafFields, now: datetime
    ) -> bool:
        """Return whether `leaf`, read from `encoded`, is of this form and is what was `wanted`."""
        after_serial = _SERIAL_AT + 2 + encoded[_SERIAL_AT + 1]
        span = after_serial + len(self.to_span)
        after_span = span + self.span_bytes
        point = after_span + len(self.to_point)
        after_point = point + self.point_bytes
        identifier = after_point + len(self.to_identifier)
        rest = identifier + _IDENTIFIER_BYTES
        end = rest + len(self.rest)
        begins_at, ends_at = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        return (
            # Where the TBSCertificate ends by its own length is where it ends by its parts.
            encoded[:2] == _LONG_SEQUENCE
            and int.from_bytes(encoded[_TBS_AT + 2 : _VERSION_AT]) == end - _VERSION_AT
            and encoded[_TBS_AT : _TBS_AT + 2] + encoded[_VERSION_AT : _SERIAL_AT + 1]
            == self.to_serial
            and encoded[after_serial:span] == self.to_span
            and encoded[after_span:point] == self.to_point
            and encoded[after_point:identifier] == self.to_identifier
            and encoded[rest:end] == self.rest
            and encoded[end : end + len(self.algorithm)] == self.algorithm
            and self.key_head + encoded[point:after_point] == wanted.spki
            and leaf.serial_number == wanted.serial
            and 0 < wanted.serial.bit_length() <= _MAX_SERIAL_BITS
            and begins_at == wanted.validity.not_before
            and ends_at == wanted.validity.not_after
            and begins_at <= now <= ends_at
            and self.since <= now <= self.until
            and self._is_signed(leaf.signature, encoded[_TBS_AT:end])
        )

    def _is_signed(self, signature: bytes, tbs: bytes) -> bool:
        """Return whether the authority signed `tbs`."""
        try:
            self.key.verify(signature, tbs, self.scheme)
        except InvalidSignature:
            return False
        return True


def form_of(
    encoded: bytes,
    wanted: LeafFields,
    authorities: Authorities,
    roots: Authorities,
    issuers: Sequence[x509.Certificate],
) -> LeafForm | None:
    """Return the form of a leaf in which nothing was found wrong, under `issuers`, nearest first.

    None where leaves like it are read the long way: those for RSA keys or signed by them.
    """
    certificate, key = x509.load_der_x509_certificate(encoded), issuers[0].public_key()
    scheme, tbs = certificate.signature_algorithm_parameters, certificate.tbs_certificate_bytes
    if not (
        isinstance(key, ec.EllipticCurvePublicKey)
        and isinstance(scheme, ec.ECDSA)
        and isinstance(wanted.key, ec.EllipticCurvePublicKey)
        and encoded[:2] + encoded[_TBS_AT : _TBS_AT + 2] == 2 * _LONG_SEQUENCE
    ):
        return None
    version, *fields = elements_of(tbs)
    if version != _VERSION_3 or len(fields) != _FIELDS:
        return None
    serial, algorithm, issuer, span, subject, spki, wrapped = fields
    [listed] = elements_of(wrapped)
    identifier, *others = elements_of(listed)
    if elements_of(identifier)[0] != _KEY_IDENTIFIER:
        return None
    rest = b"".join(others)
    # A point of an elliptic curve is two coordinates behind the octet that says so.
    point_bytes = 2 * ((wanted.key.key_size + 7) // 8)
    return LeafForm(
        authorities=authorities,
        roots=roots,
        key=key,
        scheme=scheme,
        since=max(each.not_valid_before_utc for each in issuers),
        until=min(each.not_valid_after_utc for each in issuers),
        to_serial=_LONG_SEQUENCE + version + serial[:1],
        to_span=algorithm + issuer + span[:_SHORT_HEAD],
        span_bytes=len(span) - _SHORT_HEAD,
        to_point=subject + spki[:-point_bytes],
        key_head=spki[:-point_bytes],
        point_bytes=point_bytes,
        to_identifier=wrapped[: len(wrapped) - len(rest) - _IDENTIFIER_BYTES],
        rest=rest,
        algorithm=algorithm + _BIT_STRING,
    )
