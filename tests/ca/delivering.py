"""What the tests of delivery share: a CA in a thread, its Workload API on a real socket."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from issuing import OpenCa, open_ca

from authz.cli import main
from authz.commands.ca_slots import load_ca_settings
from ca.authority import AuthorityKeeper, AuthorityPlan
from ca.changes import Changes
from ca.clock import utc_now
from ca.grant import IssuancePolicy
from ca.held_svids import HoldingParts
from ca.issuance import Issuance
from ca.jwt_issue import TokenDesk
from ca.jwt_keys import JwtKeys
from ca.keys import FileKeyStore
from ca.server import serve
from ca.state import StateFolder
from ca.streams import OpenStreams
from ca.unix_attest import UnixAttestor
from ca.workload_api import WorkloadApiParts
from ca.workload_socket import serve_workload_api
from identity.spiffe_id import TrustDomain
from identity.trust_bundle import BundleSet, TrustBundle

_WAIT = 10


@dataclass
class DeliveringCa:
    """A CA whose Workload API listens on `socket`."""

    ca: OpenCa
    keeper: AuthorityKeeper
    keys: JwtKeys
    tokens: TokenDesk
    streams: OpenStreams
    changes: Changes
    socket: Path
    federated: list[TrustBundle]

    @property
    def endpoint(self) -> str:
        """The socket as `SPIFFE_ENDPOINT_SOCKET` spells it."""
        return f"unix://{self.socket}"

    def bundles(self) -> BundleSet:
        """What is handed out."""
        return BundleSet.of(self.keys.bundle(), *self.federated)

    def add(self, spiffe_id: str, *selectors: str, **changes: object) -> None:
        """Register an entry and tell the streams."""
        self.ca.add(spiffe_id, *selectors, **changes)
        self.changes.announce()


@contextmanager
def delivering_ca(
    folder: Path, *, lifetime: timedelta = timedelta(hours=1), **parts: Any
) -> Iterator[DeliveringCa]:
    """Serve the Workload API in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="delivering")
    thread.start()
    serving = _serving(folder, loop, lifetime, parts)
    try:
        ca = asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result()
        try:
            yield ca
        finally:
            asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@asynccontextmanager
async def _serving(
    folder: Path, loop: asyncio.AbstractEventLoop, lifetime: timedelta, changed: dict[str, Any]
) -> AsyncIterator[DeliveringCa]:
    """Put a CA together and serve it."""
    plan = AuthorityPlan(
        trust_domain=TrustDomain("example.org"),
        root_lifetime=timedelta(days=300),
        intermediate_lifetime=timedelta(days=90),
        leaf_lifetime=lifetime,
    )
    with StateFolder(folder / "state") as state:
        store = FileKeyStore(state.keys_folder)
        keeper = AuthorityKeeper(state, store, plan, utc_now)
        with open_ca(folder, keeper.current(), utc_now) as ca:
            ca.issuance = _issuance(ca.issuance, keeper, lifetime)
            keys, changes = JwtKeys(keeper, store), Changes(loop)
            keeper.on_change(changes.announce)
            tokens = TokenDesk(ca.issuance, ca.registry, keys, utc_now)
            delivering = DeliveringCa(
                ca=ca,
                keeper=keeper,
                keys=keys,
                tokens=tokens,
                streams=OpenStreams(),
                changes=changes,
                socket=folder / "api.sock",
                federated=[],
            )
            parts = WorkloadApiParts(
                trust_domain=plan.trust_domain,
                issuance=ca.issuance,
                registry=ca.registry,
                tokens=tokens,
                bundles=delivering.bundles,
                attest=UnixAttestor(),
                changes=changes,
                streams=delivering.streams,
                holding=HoldingParts(
                    issue=ca.issuance.issue,
                    chain=lambda: keeper.current().chain,
                    clock=utc_now,
                    random=lambda: 0.5,
                ),
                clock=utc_now,
            )
            async with serve_workload_api(delivering.socket, replace(parts, **changed)):
                yield delivering


def _issuance(made: Issuance, keeper: AuthorityKeeper, lifetime: timedelta) -> Issuance:
    """Return the same issuance, under the authority of the moment and with another lifetime."""
    policy = IssuancePolicy(lifetime=lifetime, max_lifetime=timedelta(hours=24))
    return Issuance(replace(made._parts, authority=keeper.current, policy=policy))


def write_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate for `name` with its key, as a public CA would have signed it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "tls.crt", folder / "tls.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@contextmanager
def served(folder: Path, **changes):
    """Serve a configuration in a thread; yields what runs a command line on it."""
    config = folder / "ca.yaml"
    settings = {
        "stateFolder": "state",
        "trustDomain": "example.org",
        "workloadApi": {"socket": "run/api.sock"},
    } | changes
    config.write_text(yaml.safe_dump(settings))
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    outcome: queue.Queue[BaseException | None] = queue.Queue()

    def run() -> None:
        try:
            parsed = load_ca_settings(config)
            loop.run_until_complete(serve(parsed, ready=ready.set, stop=stop))
            outcome.put(None)
        except BaseException as exc:
            outcome.put(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(_WAIT)

    def command(*words: str) -> str:
        result = CliRunner().invoke(main, ["ca", *words, "-c", str(config)])
        assert result.exit_code == 0, result.output
        return result.stdout

    try:
        yield command
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
        error = outcome.get()
        if error is not None:
            raise error
