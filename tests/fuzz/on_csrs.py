"""CSR: one that is taken proves its key and asks for no authority, as a second reading finds.

Bytes that the fuzzer changed are signed anew, or no request would get past its signature.
"""

from __future__ import annotations

from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ca.csr import read_csr
from ca.errors import IssueRefusedError
from tests.fuzz.choices import Choices
from tests.fuzz.target import Target

_KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
_ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_WEB = "spiffe://cluster.local/ns/shop/sa/web"
# AlgorithmIdentifier of ecdsa-with-SHA256 (RFC 5758 section 3.2).
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")


def _named(*uris: str, **asked: bool) -> x509.CertificateSigningRequestBuilder:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if "ca" in asked:
        basic = x509.BasicConstraints(ca=asked["ca"], path_length=None)
        builder = builder.add_extension(basic, critical=True)
    return builder


@cache
def _requests() -> tuple[x509.CertificateSigningRequest, ...]:
    sha256 = hashes.SHA256()
    return (
        _named(_WEB).sign(_KEY, sha256),
        _named().sign(_KEY, sha256),
        _named(_WEB, ca=True).sign(_KEY, sha256),
        _named(_WEB, f"{_WEB}2").sign(_KEY, sha256),
        _named(_WEB, ca=False).sign(_KEY, sha256),
        _named(_WEB).sign(_ED, None),
    )


def _run(data: bytes) -> None:
    choices = Choices(data)
    if choices.is_yes():
        raw = choices.rest()
    else:
        info = choices.pick(_requests()).tbs_certrequest_bytes
        raw = _signed_anew(choices.edited(info))
    try:
        found = read_csr(raw)
    except IssueRefusedError as refused:
        assert refused.reason, "a refusal has a name"
        return
    _must_be_takeable(raw)
    assert found.asked is None or str(found.asked).startswith("spiffe://")


def _must_be_takeable(raw: bytes) -> None:
    """Raise unless a second reading finds a signature that holds and nothing that is forbidden."""
    text = raw.strip()
    is_pem = text.startswith(b"-----BEGIN ")
    load = x509.load_pem_x509_csr if is_pem else x509.load_der_x509_csr
    csr = load(text if is_pem else raw)
    assert csr.is_signature_valid
    assert isinstance(csr.public_key(), ec.EllipticCurvePublicKey), "only such keys are tried here"
    for extension in csr.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            assert not extension.value.ca
        if isinstance(extension.value, x509.SubjectAlternativeName):
            kind = x509.UniformResourceIdentifier
            assert len(extension.value.get_values_for_type(kind)) <= 1


def _signed_anew(info: bytes) -> bytes:
    """Return the request of a CertificationRequestInfo, signed (RFC 2986 section 4.2)."""
    signature = _KEY.sign(info, ec.ECDSA(hashes.SHA256()))
    return _der(0x30, info + _ECDSA_SHA256 + _der(0x03, b"\x00" + signature))


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def _seeds() -> list[bytes]:
    pem = [each.public_bytes(serialization.Encoding.PEM) for each in _requests()]
    der = [each.public_bytes(serialization.Encoding.DER) for each in _requests()]
    kinds = [bytes([0, number]) for number in range(len(_requests()))]
    return [*(b"\x01" + each for each in (*pem, *der)), *kinds]


# Signing anew is worth something only when what is signed is taken.
read_csr(_signed_anew(_requests()[0].tbs_certrequest_bytes))
TARGET = Target(run=_run, seeds=_seeds, words=("-----BEGIN ", "spiffe://"))
