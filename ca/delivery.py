"""The service that opens what `workloadApi` and its neighbours in the configuration name."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ca.bundle_endpoint import bundle_routes
from ca.changes import Changes
from ca.delivery_settings import WorkloadApiSettings
from ca.held_svids import HoldingParts
from ca.https_server import HttpsServer
from ca.jwt_issue import TokenDesk
from ca.jwt_keys import JwtKeys
from ca.key_kinds import KeyKind, generate_key
from ca.running import RunningCa
from ca.signing_service import SigningHouse, sign_over_the_network
from ca.slots import bundle_with_intermediates
from ca.state import Phase
from ca.tls import FileContext
from ca.unix_attest import UnixAttestor
from ca.workload_api import WorkloadApiParts
from ca.workload_socket import serve_workload_api
from identity.trust_bundle import BundleSet, TrustBundle

_log = structlog.get_logger(__name__)
_REFRESH_HINT_SECONDS: Final = 300


@asynccontextmanager
async def deliver(ca: RunningCa) -> AsyncIterator[None]:
    """Serve what the configuration asks for while the context is entered.

    Raises:
        CaError: a key, socket or address cannot be had.
    """
    async with AsyncExitStack() as stack:
        if ca.settings.signing is not None:
            await stack.enter_async_context(
                sign_over_the_network(_signing_house(ca), ca.settings.signing)
            )
        await stack.enter_async_context(_deliver_tokens_and_bundles(ca))
        yield


@asynccontextmanager
async def _deliver_tokens_and_bundles(ca: RunningCa) -> AsyncIterator[None]:
    """Serve the Workload API and the bundle endpoint, which JWT keys belong to."""
    workload_api, endpoint = ca.settings.workload_api, ca.settings.bundle_endpoint
    if workload_api is None and endpoint is None:
        yield
        return
    hint = endpoint.refresh_hint_seconds if endpoint is not None else _REFRESH_HINT_SECONDS
    keys = JwtKeys(ca.keeper, ca.keys, refresh_hint_seconds=hint)
    ca.jwt_authorities = lambda: keys.bundle().jwt_authorities
    async with AsyncExitStack() as stack:
        if workload_api is not None:
            parts = _workload_api_parts(ca, keys, workload_api)
            await stack.enter_async_context(serve_workload_api(workload_api.socket, parts))
        if endpoint is not None:
            context = FileContext(endpoint.certificate_file, endpoint.key_file)
            server = HttpsServer(endpoint.listen, context, bundle_routes(keys.bundle))
            stack.push_async_callback(asyncio.to_thread, server.close)
            _log.info("bundle_endpoint_ready", port=server.port)
        yield


def _signing_house(ca: RunningCa) -> SigningHouse:
    """Return what the signing endpoints need of this process."""
    return SigningHouse(
        settings=ca.settings,
        issuance=ca.books.issuance,
        store=ca.books.store,
        registry=ca.books.registry,
        bundle=partial(_bundle_with_intermediates, ca),
        chain=partial(_signing_chain, ca),
        sequence=lambda: ca.keeper.sequence,
        is_able=ca.is_able,
        count_repeated=ca.metrics.repeated.inc,
        add_probe=ca.probes.append,
        clock=ca.clock,
    )


def _bundle_with_intermediates(ca: RunningCa) -> TrustBundle:
    """Return our roots, with what helps to find a path for a leaf that is shown alone."""
    return bundle_with_intermediates(ca.settings.domain, ca.keeper.slots)


def _signing_chain(ca: RunningCa) -> tuple[x509.Certificate, ...]:
    """Return what leaves that are signed now are sent with."""
    slot = ca.keeper.in_phase(Phase.ACTIVE)
    return slot.chain if slot is not None else ()


def _workload_api_parts(
    ca: RunningCa, keys: JwtKeys, settings: WorkloadApiSettings
) -> WorkloadApiParts:
    """Return what the Workload API needs, its streams woken by new roots and entries."""
    books, changes = ca.books, Changes(asyncio.get_running_loop())
    ca.keeper.on_change(changes.announce)
    books.registry.on_change(changes.announce)
    books.listeners.append(changes.announce)
    ca.on_federated.append(changes.announce)
    # A token must not outlive the trust in its key, which a retired authority has as long as the
    # longest certificate.
    lifetime = min(
        timedelta(seconds=settings.jwt_svid_lifetime_seconds), ca.keeper.plan.leaf_lifetime
    )
    return WorkloadApiParts(
        trust_domain=ca.settings.domain,
        issuance=books.issuance,
        registry=books.registry,
        tokens=TokenDesk(books.issuance, books.registry, keys, ca.clock, lifetime=lifetime),
        bundles=lambda: BundleSet.of(
            keys.bundle(), *(each for each in ca.federated().values() if each is not None)
        ),
        is_able=ca.is_able,
        crls=lambda: tuple(each.public_bytes(serialization.Encoding.DER) for each in books.crls),
        attest=UnixAttestor(),
        changes=changes,
        streams=ca.streams,
        holding=HoldingParts(
            issue=partial(
                books.issuance.issue, new_key=partial(generate_key, KeyKind(ca.settings.svid_key))
            ),
            chain=partial(_signing_chain, ca),
            clock=ca.clock,
            random=random.SystemRandom().random,
            note_late=ca.metrics.renewals_late.inc,
        ),
        clock=ca.clock,
    )
