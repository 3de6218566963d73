"""An issuing CA as a process of its own, for the tests that kill it: `FOLDER URL NODE`.

It listens on `FOLDER/NODE.sock`; a request is the length of a CSR in four bytes and the CSR, an
answer the same of the leaf's DER; an empty answer is a refusal.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from issuing import CART_CALLER, OpenCa, open_ca

from ca.authority import Authority
from ca.clock import utc_now
from ca.errors import CaError
from ca.issued import SigningRequest
from identity.spiffe_id import TrustDomain


def store_authority(folder: Path, authority: Authority) -> None:
    """Put an authority where `load_authority` finds it."""
    for name, certificate in (("root", authority.root), ("signer", authority.intermediate)):
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (folder / f"{name}.pem").write_bytes(pem)
    key = authority.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "key.pem").write_bytes(key)


def load_authority(folder: Path) -> Authority:
    """Return the authority that several processes sign with."""
    root, signer = (
        x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        for name in ("root", "signer")
    )
    return Authority(
        trust_domain=TrustDomain("example.org"),
        root=root,
        intermediate=signer,
        chain=(signer,),
        roots=(root,),
        key=serialization.load_pem_private_key((folder / "key.pem").read_bytes(), None),
    )


async def answer(ca: OpenCa, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sign what comes in on one connection, one after the other."""
    try:
        while True:
            length = int.from_bytes(await reader.readexactly(4))
            csr = await reader.readexactly(length)
            try:
                issued = await ca.issuance.sign_async(SigningRequest(csr=csr), CART_CALLER)
                der = issued.chain[0].public_bytes(serialization.Encoding.DER)
            except CaError as exc:
                print(f"refused: {exc}", file=sys.stderr, flush=True)
                der = b""
            writer.write(len(der).to_bytes(4) + der)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main(folder: Path, url: str, node: str) -> None:
    """Serve until killed."""
    socket = folder / f"{node}.sock"
    socket.unlink(missing_ok=True)
    with open_ca(folder, load_authority(folder), utc_now, url=url, node=node) as ca:
        server = await asyncio.start_unix_server(
            lambda reader, writer: answer(ca, reader, writer), socket
        )
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
