"""A certificate signing request, read with suspicion: its public key, and the ID that it asks for.

Nothing else of a request is ever used. What asks for more than a workload may have (a CA's
certificate) is refused rather than passed over: whoever sends that does not mean a workload.

Spec: RFC 2986 §3 (PKCS#10), RFC 5967 (PEM), X509-SVID §2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeAlias, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ca.errors import IssueRefusedError, KeyRefusedError
from ca.key_kinds import PublicKey, check_public_key
from ca.refusal import Refusal
from identity.errors import SpiffeIdError
from identity.spiffe_id import SpiffeId

_Read = TypeVar("_Read")
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)
_Extensions: TypeAlias = Sequence[x509.ExtensionType]

# BUDGET: a request with a 4096-bit RSA key and a SPIFFE ID of 2048 bytes takes 5 KiB as PEM.
MAX_CSR_BYTES: Final = 16 * 1024
_PEM_BEGIN: Final = b"-----BEGIN "
_PEM_LABELS: Final = (b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST")
_WEAK_HASHES: Final = (hashes.MD5, hashes.SHA1)
_MIN_RSA_BITS: Final = 2048
_MIN_CURVE_BITS: Final = 256
_MIN_RSA_EXPONENT: Final = 65_537
_ODD: Final = (
    *(ValueError, TypeError),
    *(x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCsr:
    """What counts of a request whose signature held. Digests are SHA-256 in hex.

    `asked` is the SPIFFE ID in its URI SAN, None when it has no URI.
    """

    public_key: PublicKey = field(repr=False)
    spki_sha256: str
    csr_sha256: str
    asked: SpiffeId | None


def read_csr(raw: bytes) -> ReadCsr:
    """Return what counts of the request in `raw`, one PEM block or bare DER.

    Raises:
        IssueRefusedError: naming the first thing that is wrong with it.
    """
    if len(raw) > MAX_CSR_BYTES:
        raise _refused(
            Refusal.CSR_TOO_LARGE, f"the request has {len(raw)} bytes, over {MAX_CSR_BYTES}"
        )
    csr = _parsed(raw)
    key = _checked_key(csr)
    _check_possession(csr, key)
    extensions = _malformed_unless(lambda: [each.value for each in csr.extensions])
    _check_no_authority(extensions)
    return ReadCsr(
        public_key=key,
        spki_sha256=spki_digest(key),
        csr_sha256=hashlib.sha256(csr.public_bytes(serialization.Encoding.DER)).hexdigest(),
        asked=_asked_id(extensions),
    )


def spki_digest(key: PublicKey) -> str:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo, in hex."""
    spki = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


def _parsed(raw: bytes) -> x509.CertificateSigningRequest:
    """Return the request in PEM or DER; PEM must be one block, of a request, and nothing else."""
    text = raw.strip()
    if not text.startswith(_PEM_BEGIN):
        return _malformed_unless(lambda: x509.load_der_x509_csr(raw))
    for label in _PEM_LABELS:
        begin, end = b"-----BEGIN %s-----" % label, b"-----END %s-----" % label
        if text.startswith(begin) and text.endswith(end) and text.count(b"-----BEGIN") == 1:
            return _malformed_unless(lambda: x509.load_pem_x509_csr(text))
    raise _refused(Refusal.CSR_MALFORMED, "the PEM is not one block `CERTIFICATE REQUEST`")


def _checked_key(csr: x509.CertificateSigningRequest) -> PublicKey:
    """Return the request's key, of a kind that a leaf may have."""
    key = _malformed_unless(csr.public_key)
    try:
        return check_public_key(key)
    except KeyRefusedError as exc:
        reason = Refusal.KEY_WEAK if _is_weak(key) else Refusal.KEY_UNSUPPORTED
        raise IssueRefusedError(str(exc), help=exc.help, reason=reason) from exc


def _is_weak(key: object) -> bool:
    """Return whether a key that is refused is one of a good kind, only too small."""
    if isinstance(key, rsa.RSAPublicKey):
        exponent = key.public_numbers().e
        return key.key_size < _MIN_RSA_BITS or exponent < _MIN_RSA_EXPONENT
    return isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < _MIN_CURVE_BITS


def _check_possession(csr: x509.CertificateSigningRequest, key: PublicKey) -> None:
    """Refuse a request that its own key did not sign (RFC 2986 §3: proof of possession)."""
    try:
        is_weak = isinstance(csr.signature_hash_algorithm, _WEAK_HASHES)
        is_signed = not is_weak and _is_signed_by(csr, key)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise _refused(Refusal.PROOF_OF_POSSESSION, "the signature cannot be checked") from exc
    if is_weak:
        raise _refused(Refusal.PROOF_OF_POSSESSION, "the request is signed over MD5 or SHA-1")
    if not is_signed:
        raise _refused(Refusal.PROOF_OF_POSSESSION, "the request is not signed by its own key")


def _is_signed_by(csr: x509.CertificateSigningRequest, key: PublicKey) -> bool:
    """Return whether the request's own `key` signed it.

    WHY not always by `is_signature_valid`: it reads the key once more, a tenth of all it costs.
    """
    parameters = csr.signature_algorithm_parameters
    if type(parameters) is not ec.ECDSA or not isinstance(key, ec.EllipticCurvePublicKey):
        return csr.is_signature_valid
    try:
        key.verify(csr.signature, csr.tbs_certrequest_bytes, parameters)
    except InvalidSignature:
        return False
    return True


def _check_no_authority(extensions: _Extensions) -> None:
    """Refuse a request for the certificate of a CA."""
    basic = _one_of(extensions, x509.BasicConstraints)
    usage = _one_of(extensions, x509.KeyUsage)
    if basic is not None and basic.ca:
        raise _refused(Refusal.CA_ASKED, "the request asks for a CA's certificate")
    if usage is not None and (usage.key_cert_sign or usage.crl_sign):
        raise _refused(Refusal.CA_ASKED, "the request asks to sign certificates or CRLs")


def _asked_id(extensions: _Extensions) -> SpiffeId | None:
    """Return the one SPIFFE ID that the request names, or None where it names no URI."""
    names = _one_of(extensions, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []
    if not uris:
        return None
    # X509-SVID §2: exactly one URI SAN.
    if len(uris) > 1:
        raise _refused(Refusal.ID_AMBIGUOUS, f"expected 1 URI SAN, got {len(uris)}")
    try:
        return _read_id(uris[0])
    except SpiffeIdError as exc:
        raise _refused(Refusal.ID_MALFORMED, str(exc)) from exc


@lru_cache(maxsize=1024)
def _read_id(text: str) -> SpiffeId:
    """Return the SPIFFE ID of a text; a workload's is the same again and again."""
    return SpiffeId.parse(text)


def _one_of(extensions: _Extensions, kind: type[_Extension]) -> _Extension | None:
    """Return an extension that the request asks for, or None.

    WHY by its very type, which has no others below it: the library's are abstract classes' heirs,
    of which to ask whether one is of a kind takes four calls.
    """
    for value in extensions:
        if type(value) is kind:
            return value
    return None


def _malformed_unless(read: Callable[[], _Read]) -> _Read:
    """Return what `read` reads, its errors named.

    WHY these types: the parser raises ValueError for bad ASN.1, an unknown curve as
    UnsupportedAlgorithm, and errors of their own for odd versions, names and extensions.
    """
    try:
        return read()
    except UnsupportedAlgorithm as exc:
        raise _refused(
            Refusal.KEY_UNSUPPORTED, "the key or signature is of an unknown kind"
        ) from exc
    except _ODD as exc:
        raise _refused(Refusal.CSR_MALFORMED, "the request cannot be read as PKCS#10") from exc


def _refused(reason: Refusal, message: str) -> IssueRefusedError:
    """Return the error that names why."""
    return IssueRefusedError(message, reason=reason)
