"""A root for tests, and what it issues: certificates of one URI, as PEM with their keys."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SERVER_NAME = "authorizer.test"
_HOUR = timedelta(hours=1)


class Authority:
    """A root that writes what it issues into files."""

    def __init__(self) -> None:
        """Make the root."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        # A chain is built by names: two roots of one name would be taken for each other.
        common = x509.NameAttribute(NameOID.COMMON_NAME, secrets.token_hex(8))
        self.name = x509.Name([common])
        self.root = self._sign(self.key.public_key(), "", _HOUR)

    def issue(self, uri: str, life: timedelta = _HOUR) -> tuple[bytes, bytes]:
        """Return certificate and key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self._pem(self._sign(key.public_key(), uri, life)), private

    @property
    def root_pem(self) -> bytes:
        """The root as PEM."""
        return self._pem(self.root)

    def _sign(self, public: Any, uri: str, life: timedelta) -> x509.Certificate:
        now = datetime.now(UTC)
        bits = dict.fromkeys(["content_commitment", "key_encipherment", "data_encipherment"], False)
        bits |= dict.fromkeys(["key_agreement", "encipher_only", "decipher_only"], False)
        usage = x509.KeyUsage(
            digital_signature=bool(uri), key_cert_sign=not uri, crl_sign=not uri, **bits
        )
        builder = (
            x509.CertificateBuilder(
                self.name, x509.Name([]) if uri else self.name, public, x509.random_serial_number()
            )
            .not_valid_before(now - _HOUR * 2)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=not uri, path_length=None), critical=True)
            .add_extension(usage, critical=True)
        )
        if uri:
            names = [x509.UniformResourceIdentifier(uri), x509.DNSName(SERVER_NAME)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return builder.sign(self.key, hashes.SHA256())

    @staticmethod
    def _pem(certificate: x509.Certificate) -> bytes:
        return certificate.public_bytes(serialization.Encoding.PEM)


def write_pair(folder: Path, pair: tuple[bytes, bytes]) -> None:
    """Put certificate and key where the listener looks, each swapped whole."""
    for name, content in zip(("server.pem", "server.key"), pair, strict=True):
        (folder / "next").write_bytes(content)
        (folder / "next").replace(folder / name)
