"""What both sides of the contest are told: one trust domain, one caller, a stock of CSRs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ca.caller import Caller, Method
from ca.clock import utc_now
from ca.entries import RegistrationEntry, insert_entry
from ca.key_kinds import generate_key
from ca.profile import Validity, build_intermediate, build_root
from ca.store import Store
from identity.spiffe_id import TrustDomain

TRUST_DOMAIN: Final = "bench.example"
SPIFFE_ID: Final = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/cart"
CALLER: Final = Caller(
    method=Method.K8S_SERVICE_ACCOUNT,
    selectors=frozenset({"k8s:ns:shop", "k8s:sa:cart"}),
    evidence={"subject": "system:serviceaccount:shop:cart"},
)
_STOCK: Final = 64


def make_csrs() -> list[str]:
    """Return CSRs of as many P-256 keys, each for the one SPIFFE ID."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SPIFFE_ID)])
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
    )
    keys = (ec.generate_private_key(ec.SECP256R1()) for _ in range(_STOCK))
    made = (builder.sign(key, hashes.SHA256()) for key in keys)
    return [csr.public_bytes(serialization.Encoding.PEM).decode() for csr in made]


def prepare(folder: Path) -> None:
    """Put an authority, and a ledger with the one entry, into a folder."""
    domain, now = TrustDomain(TRUST_DOMAIN), utc_now()
    root_key, signer_key = generate_key(), generate_key()
    validity = Validity.of(now, timedelta(days=30), None)
    root = build_root(domain, root_key.public_key(), x509.random_serial_number(), validity).sign(
        root_key, hashes.SHA256()
    )
    signer = build_intermediate(
        root, domain, signer_key.public_key(), x509.random_serial_number(), validity
    ).sign(root_key, hashes.SHA256())
    for name, certificate in (("root", root), ("signer", signer)):
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (folder / f"{name}.pem").write_bytes(pem)
    key = signer_key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(key)
    store = Store(f"sqlite:///{folder / 'ledger.db'}")
    entry = RegistrationEntry(
        entry_id="cart", spiffe_id=SPIFFE_ID, selectors=CALLER.selectors, created_at=now
    )
    with store.write() as connection:
        insert_entry(connection, entry)
    store.close()
