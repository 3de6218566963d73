"""What goes into issuance and what comes out, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509

from ca.key_kinds import PublicKey
from ca.ledger import format_serial
from ca.svid import to_pem
from identity.spiffe_id import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRequest:
    """What a transport was asked: a CSR (PEM or DER), perhaps an ID, perhaps a lifetime.

    Without `spiffe_id` the CSR's own URI counts, and without that the only ID the caller may hold.
    """

    csr: bytes
    spiffe_id: SpiffeId | None = None
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedSvid:
    """A certificate that is on record and may leave: leaf first, and the roots it leads to.

    `leaf_der` is the leaf as it was signed, where that is at hand.
    """

    spiffe_id: SpiffeId
    chain: tuple[x509.Certificate, ...]
    roots: tuple[x509.Certificate, ...]
    leaf_der: bytes = field(default=b"", repr=False)

    @property
    def serial(self) -> str:
        """The leaf's serial number as the ledger spells it."""
        return format_serial(self.chain[0].serial_number)

    @property
    def expires_at(self) -> datetime:
        """The end of the first certificate of the chain to end."""
        return min(certificate.not_valid_after_utc for certificate in self.chain)

    def chain_pem(self) -> bytes:
        """Return the chain as concatenated PEM, leaf first."""
        return to_pem(self.chain)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What the ledger keeps of a JWT-SVID.

    `token_id` is its `jti`, unique; `authority` its `kid`; `key` the public key that verifies it.
    """

    token_id: str
    spiffe_id: SpiffeId
    audiences: tuple[str, ...]
    key: PublicKey = field(repr=False)
    token_sha256: str
    issued_at: datetime
    expires_at: datetime
    authority: str = ""
