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
from ca.caller import Caller, Method
from ca.changes import Changes
from ca.delivery_settings import SigningSettings, WorkloadApiSettings
from ca.errors import ListenError
from ca.front import Front, FrontParts
from ca.held_svids import HoldingParts
from ca.https_server import HttpsServer
from ca.join_tokens import JoinTokenAttestor
from ca.jwt_issue import TokenDesk
from ca.jwt_keys import JwtKeys
from ca.key_kinds import KeyKind, generate_key
from ca.own_identity import OwnIdentity, OwnIdentityParts
from ca.record_settings import CaCluster
from ca.renewing import SvidAttestor
from ca.repeats import Repeats
from ca.running import RunningCa
from ca.service_account import ClusterRule, ServiceAccountAttestor
from ca.signing_endpoints import serve_signing
from ca.slots import trusted_roots
from ca.state import Phase
from ca.tls import FileContext
from ca.unix_attest import UnixAttestor
from ca.workload_api import WorkloadApiParts
from ca.workload_socket import serve_workload_api
from identity.jwks_cache import JwksCache, RefreshTimes
from identity.jwt_rule import JwtRule
from identity.spiffe_id import SpiffeId
from identity.trust_bundle import BundleSet, TrustBundle

_log = structlog.get_logger(__name__)
_REFRESH_HINT_SECONDS: Final = 300
# BUDGET: how long a caller waits while the keys of its cluster are fetched anew.
_KEY_WAIT_SECONDS: Final = 2.0


@asynccontextmanager
async def deliver(ca: RunningCa) -> AsyncIterator[None]:
    """Serve what the configuration asks for while the context is entered.

    Raises:
        CaError: a key, socket or address cannot be had.
    """
    async with AsyncExitStack() as stack:
        if ca.settings.signing is not None:
            await stack.enter_async_context(_sign_over_the_network(ca, ca.settings.signing))
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


@asynccontextmanager
async def _sign_over_the_network(ca: RunningCa, settings: SigningSettings) -> AsyncIterator[None]:
    """Serve the signing endpoints."""
    books, keys = ca.books, JwksCache(times=RefreshTimes(wait_seconds=_KEY_WAIT_SECONDS))
    clusters = [_cluster_rule(cluster) for cluster in ca.settings.clusters]
    try:
        await asyncio.to_thread(keys.prepare, [each.rule for each in clusters])
        service_account = ServiceAccountAttestor(
            clusters, keys.keys_for, ca.clock, hasten=keys.hasten
        )
        front = Front(
            FrontParts(
                issuance=books.issuance,
                join_token=JoinTokenAttestor(books.store, ca.clock),
                svid=SvidAttestor(
                    lambda: _bundle_with_intermediates(ca), books.store, books.registry, ca.clock
                ),
                repeats=_repeats(ca),
                service_account=service_account if clusters else None,
            )
        )
        identity = await asyncio.to_thread(OwnIdentity, _own_identity_parts(ca, settings))
        ca.probes.append(identity.troubles)
        async with serve_signing(settings, front, identity, ca.is_able):
            yield
    finally:
        await asyncio.to_thread(keys.close)


def _repeats(ca: RunningCa) -> Repeats:
    """Return what keeps answers, until entries, denials or roots are others."""
    registry, keeper = ca.books.registry, ca.keeper
    return Repeats(
        ca.settings.limits.repeat_seconds,
        lambda: (registry.state.revision, keeper.sequence, _signing_chain(ca)),
        count=ca.metrics.repeated.inc,
    )


def _cluster_rule(cluster: CaCluster) -> ClusterRule:
    """Return whom to believe about a cluster's service accounts.

    Raises:
        ListenError: its file of keys cannot be read.
    """
    jwks = ""
    if cluster.jwks_file is not None:
        try:
            jwks = cluster.jwks_file.read_text(encoding="utf-8")
        except (OSError, ValueError) as exc:
            raise ListenError(f"`{cluster.jwks_file}` cannot be read") from exc
    return ClusterRule(
        cluster=cluster.name,
        rule=JwtRule(
            issuer=cluster.issuer,
            audiences=cluster.audiences,
            jwks_uri=cluster.jwks_uri,
            jwks=jwks,
        ),
    )


def _bundle_with_intermediates(ca: RunningCa) -> TrustBundle:
    """Return our roots, with what helps to find a path for a leaf that is shown alone."""
    slots = ca.keeper.slots
    return TrustBundle(
        trust_domain=ca.settings.domain,
        x509_authorities=trusted_roots(slots),
        intermediates=tuple(dict.fromkeys(each for slot in slots for each in slot.chain)),
    )


def _signing_chain(ca: RunningCa) -> tuple[x509.Certificate, ...]:
    """Return what leaves that are signed now are sent with."""
    slot = ca.keeper.in_phase(Phase.ACTIVE)
    return slot.chain if slot is not None else ()


def _own_identity_parts(ca: RunningCa, settings: SigningSettings) -> OwnIdentityParts:
    """Return what the endpoints' own certificate is made of."""
    spiffe_id = SpiffeId.parse(f"spiffe://{ca.settings.domain}{settings.spiffe_path}")
    caller = Caller(
        method=Method.OPERATOR, granted=spiffe_id, evidence={"for": "the signing endpoints"}
    )
    return OwnIdentityParts(
        issue=partial(ca.books.issuance.issue, spiffe_id, caller, dns_names=settings.dns_names),
        chain=partial(_signing_chain, ca),
        roots=lambda: ca.keeper.roots,
        clock=ca.clock,
        random=random.SystemRandom().random,
    )


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
