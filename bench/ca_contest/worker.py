"""Issuing processes of the contest: `FOLDER COUNT`; their ports are printed, a line each.

One worker issues and records in one process. Several are processes that issue, and this one, which
records for all of them, as `meshwarden ca serve --workers` has it. The authority and the ledger lie
in the folder. All end with their input. Callers count as attested: neither contestant's login is
measured.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bench.ca_contest.parts import CALLER, TRUST_DOMAIN
from ca.audit_chain import AuditChain
from ca.authority import Authority
from ca.checkpoints import Checkpoints
from ca.clock import utc_now
from ca.cores import core_of, keep_to
from ca.front import Asked, Credentials
from ca.gathered_writes import GatheringServer
from ca.grant import IssuancePolicy
from ca.interpreter import tune_interpreter
from ca.issuance import Issuance, IssuanceParts
from ca.issued import IssuedSvid
from ca.istio_service import IstioCertificateService
from ca.key_kinds import check_private_key
from ca.recorder import Recorder, Records
from ca.registry import Registry
from ca.remote_recorder import RemoteRecorder
from ca.signing_endpoints import listen_on
from ca.store import Store
from ca.worker_desk import WorkerDesk
from ca.worker_link import open_link
from ca.worker_wire import Message
from identity.spiffe_id import TrustDomain

_NODE = "bench"


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


async def _issue(folder: Path, store: Store, records: Records, stop: asyncio.Event) -> None:
    """Answer CreateCertificate until `stop` is set."""
    authority = load_authority(folder)
    parts = IssuanceParts(
        authority=lambda: authority,
        registry=Registry(store),
        recorder=records,
        policy=IssuancePolicy(lifetime=timedelta(hours=1), max_lifetime=timedelta(hours=1)),
        clock=utc_now,
        node=_NODE,
    )
    server = GatheringServer([IstioCertificateService(_OpenFront(Issuance(parts)))])
    listener = listen_on("127.0.0.1:0")
    await server.start(sock=listener)
    print(listener.getsockname()[1], flush=True)
    await stop.wait()
    server.close()


async def _issue_beside(folder: Path, pair: socket.socket) -> None:
    """Issue, while the process at the other end of `pair` records."""
    store, stop = Store(_ledger(folder)), asyncio.Event()

    def hear(message: Message) -> None:
        recorder.settle(message)

    link = await open_link(pair, hear, stop.set)
    recorder = RemoteRecorder(asyncio.get_running_loop(), link.send)
    await _issue(folder, store, recorder, stop)
    store.close()


async def _issue_alone(folder: Path, store: Store, recorder: Recorder) -> None:
    """Issue and record in this process until the input ends."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def watch() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=watch, daemon=True).start()
    await _issue(folder, store, recorder, stop)


def _record_for(folder: Path, count: int, recorder: Recorder) -> None:
    """Record for so many workers until the input ends."""
    pairs, processes, threads = [], [], []
    for number in range(count):
        ours, theirs = socket.socketpair()
        what = f"fd:{theirs.fileno()}:{number}:{count}"
        command = [sys.executable, "-m", __spec__.name, str(folder), what]
        with theirs:
            processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
        desk = WorkerDesk(ours, recorder, lambda _message: None)
        recorder.after_group += (desk.flush,)
        threads.append(threading.Thread(target=desk.attend))
        threads[-1].start()
        pairs.append(ours)
    sys.stdin.read()
    for ours in pairs:
        ours.shutdown(socket.SHUT_RDWR)
    for thread, process in zip(threads, processes, strict=True):
        thread.join()
        process.wait()


def _ledger(folder: Path) -> str:
    """Return the URL of the ledger that all share."""
    return f"sqlite:///{folder / 'ledger.db'}"


def main(folder: Path, what: str) -> None:
    """Be the process that `what` names: a number of workers, or one worker's end of the line."""
    tune_interpreter()
    if what.startswith("fd:"):
        fd, number, of = map(int, what.removeprefix("fd:").split(":"))
        keep_to(core_of(number, of))
        asyncio.run(_issue_beside(folder, socket.socket(fileno=fd)))
        return
    store, count = Store(_ledger(folder)), int(what)
    recorder = Recorder(store, AuditChain(folder / f"audit-{count}", node=_NODE, clock=utc_now))
    with Checkpoints(store):
        if count == 1:
            asyncio.run(_issue_alone(folder, store, recorder))
        else:
            _record_for(folder, count, recorder)
    recorder.close()
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
