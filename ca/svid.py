"""An X.509-SVID with its key, as a value that passes between the rooms of the CA."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.key_kinds import PrivateKey
from identity.spiffe_id import SpiffeId

# RFC 7468 §2: "each line consisting of exactly 64 characters except for the final line".
_LINE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class X509Svid:
    """A certificate chain, leaf first and without the root, and the leaf's private key."""

    spiffe_id: SpiffeId
    chain: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)

    @property
    def leaf(self) -> x509.Certificate:
        """The workload's own certificate."""
        return self.chain[0]

    @property
    def expires_at(self) -> datetime:
        """The first end among the chain's validities: the chain is good only while all of it is."""
        return min(certificate.not_valid_after_utc for certificate in self.chain)

    def is_valid_at(self, now: datetime) -> bool:
        """Return whether every certificate of the chain is in its validity at `now`."""
        return all(
            certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc
            for certificate in self.chain
        )

    def chain_pem(self) -> bytes:
        """Return the chain as concatenated PEM, leaf first."""
        return to_pem(self.chain)

    def key_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS#8 PEM; a secret."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def to_pem(certificates: tuple[x509.Certificate, ...]) -> bytes:
    """Return `certificates` as concatenated PEM in their order."""
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def der_to_pem(encoded: bytes) -> str:
    """Return a certificate's DER as PEM, as `to_pem` has it, without encoding it anew."""
    text = b64encode(encoded).decode("ascii")
    lines = [text[begin : begin + _LINE] for begin in range(0, len(text), _LINE)]
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))
