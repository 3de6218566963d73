"""`meshwarden ca agent`: keeps a workload's certificate, key and bundles as files, from any
Workload API.

Theory of operation. The agent is the workload as far as the Workload API is concerned, so it runs
as the workload's user. Each state that the stream sends is checked as a peer would check it before
a file is touched; what does not hold is logged, and the files before stay. A stream that ends is
opened again, with pauses that grow; the files stay meanwhile, good until their end. Two agents on
one folder would sweep each other's sets: who has the first one to write holds the folder from then
on, and the other ends.

Spec: SPIFFE Workload API §5.2 and its client rules (§4.3: INVALID_ARGUMENT is not tried again).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.agent_files import PublishedFile, publish_files
from ca.clock import Clock
from ca.envoy_files import (
    ENVOY_ROOTS_FILE,
    ENVOY_SVID_FILE,
    encode_envoy_roots,
    encode_envoy_svid,
)
from ca.errors import (
    FolderHeldError,
    KeyRefusedError,
    StateError,
    SvidInvalidError,
    WorkloadApiError,
)
from ca.folder_hold import FolderHold
from ca.key_kinds import check_private_key
from ca.svid import X509Svid, to_pem
from ca.validate import verify_x509_svid
from ca.wire_messages import WORKLOAD_API
from identity.bundle_document import encode_bundle
from identity.errors import IdentityError
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.trust_bundle import BundleError, TrustBundle

_log = structlog.get_logger(__name__)
_METHOD: Final = "/SpiffeWorkloadAPI/FetchX509SVID"
_HEADERS: Final = (("workload.spiffe.io", "true"),)
_FATAL: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
_FIRST_PAUSE_SECONDS: Final = 0.1
_LAST_PAUSE_SECONDS: Final = 10.0
_KEY_MODE: Final = 0o600

SVID_FILE: Final = "svid.pem"
"""The chain, leaf first."""

KEY_FILE: Final = "svid_key.pem"
"""The private key, PKCS#8."""

BUNDLE_FILE: Final = "svid_bundle.pem"
"""The roots of the workload's own trust domain."""

BUNDLES_FILE: Final = "trust_bundles.json"
"""The roots of every trust domain, as Envoy's SPIFFE validator reads them (`trust_bundles`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPlan:
    """What the agent keeps: from which socket, in which folder, and which ID (None: the first).

    `random` returns a float in [0, 1); `written` is called after each change of the files.
    """

    socket: Path
    folder: Path
    clock: Clock
    random: Callable[[], float]
    spiffe_id: SpiffeId | None = None
    is_once: bool = False
    written: Callable[[X509Svid], None] = lambda _svid: None


async def run_agent(plan: AgentPlan, stop: asyncio.Event) -> None:
    """Keep the files until `stop` is set, or until they are written once.

    Raises:
        WorkloadApiError: the other side does not speak the Workload API, or refuses for good.
        FolderHeldError: another process keeps these files.
        StateError: the files cannot be written, and never could.
    """
    with closing(FolderHold(plan.folder)) as hold:
        await _run(plan, stop, hold)


async def _run(plan: AgentPlan, stop: asyncio.Event, hold: FolderHold) -> None:
    """Keep the files, whose folder `hold` is to hold, as `run_agent` does."""
    stopping = asyncio.create_task(stop.wait())
    keeping = asyncio.create_task(_keep(plan, hold))
    try:
        await asyncio.wait({stopping, keeping}, return_when=asyncio.FIRST_COMPLETED)
        if keeping.done():
            keeping.result()
    finally:
        for task in (stopping, keeping):
            task.cancel()
        await asyncio.gather(stopping, keeping, return_exceptions=True)


async def _keep(plan: AgentPlan, hold: FolderHold) -> None:
    """Follow one stream after the other."""
    pause, has_written = _FIRST_PAUSE_SECONDS, False
    while True:
        has_heard = False
        try:
            async for response in _states(plan.socket):
                if _take(plan, hold, response):
                    has_written = True
                    if plan.is_once:
                        return
                has_heard = True
            why = "the stream ended"
        except FolderHeldError:
            # Somebody else does what is to be done, with the same files.
            raise
        except StateError as exc:
            # A disk that took files before may take them again, well before they end. One that
            # never did is a mistake, which whoever starts us has to see.
            if not has_written:
                raise
            _log.error("workload_files_refused", error=str(exc), code=exc.code)
            has_heard, why = False, "the files cannot be written"
        except grpc.aio.AioRpcError as exc:
            if exc.code() in _FATAL:
                raise WorkloadApiError(
                    f"the Workload API refuses for good: {exc.code().name}"
                ) from exc
            why = f"{exc.code().name}: {exc.details()}"
        pause = _FIRST_PAUSE_SECONDS if has_heard else min(2 * pause, _LAST_PAUSE_SECONDS)
        _log.warning("workload_api_away", why=why, socket=str(plan.socket))
        await asyncio.sleep(pause * (0.5 + plan.random()))


async def _states(socket: Path) -> AsyncIterator[Any]:
    """Yield every state that one stream sends."""
    async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
        fetch = channel.unary_stream(
            _METHOD,
            request_serializer=WORKLOAD_API["X509SVIDRequest"].SerializeToString,
            response_deserializer=WORKLOAD_API["X509SVIDResponse"].FromString,
        )
        async for response in fetch(WORKLOAD_API["X509SVIDRequest"](), metadata=_HEADERS):
            yield response


def _take(plan: AgentPlan, hold: FolderHold, response: Any) -> bool:
    """Write what a state says, where it holds; return whether it did.

    Raises:
        FolderHeldError: another process keeps these files.
        StateError: the files cannot be written.
    """
    now = plan.clock()
    try:
        svid, bundles = read_state(response, plan.spiffe_id)
        own = bundles[svid.spiffe_id.trust_domain]
        verify_x509_svid(svid, own, now=now)
        files = files_of(svid, bundles)
    except (SvidInvalidError, KeyRefusedError, BundleError) as exc:
        _log.error("workload_state_refused", error=str(exc), code=exc.code)
        return False
    hold.take()
    publish_files(plan.folder, files, now=now)
    _log.info("svid_written", spiffe_id=str(svid.spiffe_id), expires_at=svid.expires_at.isoformat())
    plan.written(svid)
    return True


_Bundles = Mapping[TrustDomain, tuple[x509.Certificate, ...]]


def read_state(response: Any, wanted: SpiffeId | None) -> tuple[X509Svid, _Bundles]:
    """Return the SVID of a state (the first, or that of `wanted`) and the bundles.

    Raises:
        SvidInvalidError: it is not there, or cannot be read.
        KeyRefusedError: its key is of no kind that signs here.
    """
    chosen = next((s for s in response.svids if wanted in (None, _id_of(s.spiffe_id))), None)
    if chosen is None:
        raise SvidInvalidError("the Workload API has no SVID of the wanted ID")
    spiffe_id = _id_of(chosen.spiffe_id)
    try:
        key = serialization.load_der_private_key(chosen.x509_svid_key, password=None)
    # WHY `from None`: the parser's words could quote the key.
    except (ValueError, TypeError):
        raise SvidInvalidError("the private key cannot be read") from None
    bundles = {spiffe_id.trust_domain: split_der(chosen.bundle)}
    for name, der in response.federated_bundles.items():
        bundles.setdefault(_id_of(name).trust_domain, split_der(der))
    svid = X509Svid(
        spiffe_id=spiffe_id, chain=split_der(chosen.x509_svid), key=check_private_key(key)
    )
    return svid, bundles


def files_of(svid: X509Svid, bundles: _Bundles) -> dict[str, PublishedFile]:
    """Return the files of a state by name.

    Raises:
        BundleError: a root holds a key that has no place in a bundle document.
    """
    own = svid.spiffe_id.trust_domain
    domains = {
        domain.name: json.loads(
            encode_bundle(TrustBundle(trust_domain=domain, x509_authorities=roots))
        )
        for domain, roots in bundles.items()
    }
    return {
        SVID_FILE: PublishedFile(svid.chain_pem()),
        KEY_FILE: PublishedFile(svid.key_pem(), _KEY_MODE),
        BUNDLE_FILE: PublishedFile(to_pem(bundles[own])),
        BUNDLES_FILE: PublishedFile(json.dumps({"trust_domains": domains}, indent=2).encode()),
        ENVOY_SVID_FILE: PublishedFile(encode_envoy_svid(svid), _KEY_MODE),
        ENVOY_ROOTS_FILE: PublishedFile(encode_envoy_roots(bundles)),
    }


def split_der(raw: bytes) -> tuple[x509.Certificate, ...]:
    """Return the certificates that stand one after the other in `raw`.

    Raises:
        SvidInvalidError: they do not.
    """
    found = []
    while raw:
        length = _der_length(raw)
        try:
            found.append(x509.load_der_x509_certificate(raw[:length]))
        except ValueError as exc:
            raise SvidInvalidError("a certificate of the Workload API cannot be read") from exc
        raw = raw[length:]
    return tuple(found)


def _der_length(raw: bytes) -> int:
    """Return how many bytes the first DER element takes (X.690 §8.1.3)."""
    if len(raw) < 2:  # tag and length
        return len(raw)
    if raw[1] < 0x80:  # the short form
        return 2 + raw[1]
    count = raw[1] & 0x7F
    return 2 + count + int.from_bytes(raw[2 : 2 + count], "big")


def _id_of(text: str) -> SpiffeId:
    """Return the ID that the Workload API spells."""
    try:
        return SpiffeId.parse(text)
    except IdentityError as exc:
        raise SvidInvalidError(f"the Workload API names `{text[:256]}`") from exc
