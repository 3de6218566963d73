"""What the tests of issuance share: a CA with ledger and chain, CSRs of every kind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from audit.verify import VerifyReport, verify_folder
from ca.audit_chain import AuditChain
from ca.caller import Caller, Method
from ca.entries import RegistrationEntry, insert_entry
from ca.grant import IssuancePolicy
from ca.issuance import Issuance, IssuanceParts
from ca.issued import SigningRequest
from ca.ledger import LedgerFilter, LedgerRow, find_rows
from ca.recorder import Recorder
from ca.registry import Registry
from ca.settings import CaSettings
from ca.store import Store

CART = "spiffe://example.org/ns/shop/sa/cart"
CART_CALLER = Caller(
    method=Method.K8S_SERVICE_ACCOUNT,
    selectors=frozenset({"k8s:ns:shop", "k8s:sa:cart"}),
    evidence={"subject": "system:serviceaccount:shop:cart"},
)


@dataclass
class OpenCa:
    """An issuing CA in a test: the parts that a test looks at."""

    issuance: Issuance
    store: Store
    registry: Registry
    recorder: Recorder
    audit: Path

    def add(self, spiffe_id: str = CART, *selectors: str, **changes: object) -> RegistrationEntry:
        """Register an entry."""
        now = self.issuance._parts.clock()
        entry = RegistrationEntry(
            entry_id=str(changes.pop("entry_id", f"entry-{spiffe_id.rsplit('/', 1)[-1]}")),
            spiffe_id=spiffe_id,
            selectors=frozenset(selectors or ("k8s:ns:shop", "k8s:sa:cart")),
            created_at=now,
            **changes,
        )
        with self.store.write() as connection:
            insert_entry(connection, entry)
        self.registry.refresh()
        return entry

    def rows(self, **wanted: object) -> tuple[LedgerRow, ...]:
        """Return the ledger's rows."""
        with self.store.read() as connection:
            return find_rows(connection, LedgerFilter(**wanted))

    def events(self, name: str) -> list[dict[str, object]]:
        """Return the details of the audit events of a name, in order."""
        lines = [
            json.loads(line)
            for path in sorted(self.audit.glob("audit-*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        return [line["details"] for line in lines if line.get("event") == name]

    def verified(self) -> VerifyReport:
        """Return what the chain's check says."""
        return verify_folder(self.audit)


@contextmanager
def open_ca(folder, authority, clock, *, url: str = "", node: str = "one") -> Iterator[OpenCa]:
    """Open an issuing CA over an authority: its ledger is `folder`/ledger.db unless `url` is."""
    store = Store(url or f"sqlite:///{folder / 'ledger.db'}", clock=clock)
    audit = folder / f"audit-{node}"
    recorder = Recorder(store, AuditChain(audit, node=node, clock=clock))
    registry = Registry(store)
    parts = IssuanceParts(
        authority=lambda: authority,
        registry=registry,
        recorder=recorder,
        policy=IssuancePolicy(lifetime=timedelta(hours=1), max_lifetime=timedelta(hours=24)),
        clock=clock,
        node=node,
    )
    try:
        yield OpenCa(Issuance(parts), store, registry, recorder, audit)
    finally:
        recorder.close()
        store.close()


def settings_in(folder: Path, state: str) -> CaSettings:
    """Return the settings of a CA with one workload, whose state folder lies in `folder`."""
    return CaSettings.model_validate(
        {
            "stateFolder": state,
            "trustDomain": "example.org",
            "workloads": [{"spiffeId": CART, "socket": "cart.sock"}],
        }
    ).resolved(folder)


def entry_of(name: str, clock) -> RegistrationEntry:
    """Return an entry of this moment; `name` is its own and its identity's."""
    return RegistrationEntry(
        entry_id=name,
        spiffe_id=f"spiffe://example.org/{name}",
        selectors=frozenset({"unix:uid:1"}),
        created_at=clock(),
    )


def make_csr(*uris: str, key=None, extensions=(), pem=True) -> bytes:
    """Return a CSR with these URI SANs and extensions, signed by its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "asked, never used")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    # Ed25519 has its own digest.
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    csr = builder.sign(key, digest)
    encoding = serialization.Encoding.PEM if pem else serialization.Encoding.DER
    return csr.public_bytes(encoding)


def request_of(*uris: str, lifetime: timedelta | None = None, **changes) -> SigningRequest:
    """Return a signing request with a fresh CSR."""
    return SigningRequest(csr=make_csr(*uris, **changes), lifetime=lifetime)
