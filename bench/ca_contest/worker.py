"""One issuing worker as a process: `FOLDER NODE`; it prints its port, and ends with its input.

The authority lies in the folder, as does the ledger that all workers share; the audit chain is the
worker's own. Callers count as attested: neither contestant's login is measured.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench.ca_contest.parts import CALLER, TRUST_DOMAIN
from ca.audit_chain import AuditChain
from ca.authority import Authority
from ca.clock import utc_now
from ca.grant import IssuancePolicy
from ca.interpreter import tune_interpreter
from ca.issuance import Issuance, IssuanceParts
from ca.issued import SigningRequest
from ca.key_kinds import check_private_key
from ca.recorder import Recorder
from ca.registry import Registry
from ca.store import Store
from ca.svid import to_pem
from ca.wire_messages import ISTIO_CA
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
    issuance, roots = Issuance(parts), to_pem(authority.roots).decode()
    reply = ISTIO_CA["IstioCertificateResponse"]

    async def create(request: Any, _context: Any) -> Any:
        issued = await issuance.sign_async(SigningRequest(csr=request.csr.encode()), CALLER)
        return reply(cert_chain=[*(to_pem((c,)).decode() for c in issued.chain), roots])

    handler = grpc.unary_unary_rpc_method_handler(
        create,
        request_deserializer=ISTIO_CA["IstioCertificateRequest"].FromString,
        response_serializer=reply.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "istio.v1.auth.IstioCertificateService", {"CreateCertificate": handler}
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)
    recorder.close()
    store.close()


if __name__ == "__main__":
    tune_interpreter()
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2]))
