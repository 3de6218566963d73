"""One issuing worker as a process: `FOLDER NODE`; it prints its port, and ends with its input.

The authority lies in the folder, as does the ledger that all workers share; the audit chain is the
worker's own. Callers count as attested: neither contestant's login is measured.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench.ca_contest.parts import CALLER, TRUST_DOMAIN
from ca.audit_chain import AuditChain
from ca.authority import Authority
from ca.clock import utc_now
from ca.front import Asked, Credentials
from ca.gathered_writes import GatheringServer
from ca.grant import IssuancePolicy
from ca.interpreter import tune_interpreter
from ca.issuance import Issuance, IssuanceParts
from ca.issued import IssuedSvid
from ca.istio_service import IstioCertificateService
from ca.key_kinds import check_private_key
from ca.recorder import Recorder
from ca.registry import Registry
from ca.signing_endpoints import listen_on
from ca.store import Store
from identity.spiffe_id import TrustDomain


def load_authority(folder: Path) -> Authority:
    """Return the authority that lies in a folder."""
    root, signer = (
        x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        for name in ("root", "signer")
    )
    key = serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None)
    return Authority(
        trust_domain=TrustDomain(TRUST_DOMAIN),
        root=root,
        intermediate=signer,
        chain=(signer,),
        roots=(root,),
        key=check_private_key(key),
    )


class _OpenFront:
    """The door of the signing endpoints, with the one caller before it."""

    def __init__(self, issuance: Issuance) -> None:
        """Sign by `issuance`."""
        self._issuance = issuance

    async def sign_async(self, asked: Asked, _credentials: Credentials) -> IssuedSvid:
        """Return the certificate that is asked for."""
        return await self._issuance.sign_async(asked.read(), CALLER)


async def serve(folder: Path, node: str) -> None:
    """Answer CreateCertificate until the input ends."""
    authority = load_authority(folder)
    store = Store(f"sqlite:///{folder / 'ledger.db'}")
    recorder = Recorder(store, AuditChain(folder / f"audit-{node}", node=node, clock=utc_now))
    parts = IssuanceParts(
        authority=lambda: authority,
        registry=Registry(store),
        recorder=recorder,
        policy=IssuancePolicy(lifetime=timedelta(hours=1), max_lifetime=timedelta(hours=1)),
        clock=utc_now,
        node=node,
    )
    server = GatheringServer([IstioCertificateService(_OpenFront(Issuance(parts)))])
    listener = listen_on("127.0.0.1:0")
    await server.start(sock=listener)
    print(listener.getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    recorder.close()
    store.close()


if __name__ == "__main__":
    tune_interpreter()
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
