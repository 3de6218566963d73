"""Peer certificates as Envoy sends them: names are read, or the certificate is refused."""

from __future__ import annotations

import base64
import datetime
from functools import cache
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from identity.errors import CertificateError
from identity.peer_certificate import read_peer_certificate
from tests.fuzz.choices import Choices
from tests.fuzz.target import Target

_KEY = ec.derive_private_key(0x5EED, ec.SECP256R1())
_LABEL = "CERTIFICATE"
_BORN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@cache
def make_certificate(*, is_authority: bool = False) -> bytes:
    """Return a certificate with every kind of name, DER."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a,b+c")])
    names: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/web"),
        x509.DNSName("web.shop"),
        x509.RFC822Name("a@b.test"),
    ]
    builder = x509.CertificateBuilder(name, name, _KEY.public_key(), 7, _BORN, _BORN)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), True)
    return builder.sign(_KEY, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _run(data: bytes) -> None:
    choices = Choices(data)
    if choices.is_yes():
        text = choices.rest().decode("utf-8", "surrogateescape")
    else:
        text = quote(_pem(choices.edited(make_certificate())) * (1 + choices.number(3)))
    try:
        found = read_peer_certificate(text)
    except CertificateError:
        return
    assert len(found.sha256) == 64
    assert found.principal == (found.names[0] if found.names else "")


def _pem(der: bytes) -> str:
    lines = base64.encodebytes(der).decode()
    return f"-----BEGIN {_LABEL}-----\n{lines}-----END {_LABEL}-----\n"


def _seeds() -> list[bytes]:
    whole = quote(_pem(make_certificate())).encode()
    return [b"\x01" + whole, b"\x01" + whole * 2, b"\x00", b"\x00\x01\x10\x20\x00\x41", b"\x01%"]


TARGET = Target(run=_run, seeds=_seeds, words=("-----BEGIN", "%0A", "CERTIFICATE", "%2B"))
