"""The signing endpoints put together: attestors, memory of repeats, a certificate of their own.

In the CA's own process, or in one of its workers: what is different there is in `SigningHouse`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from cryptography import x509

from ca.caller import Caller, Method
from ca.clock import Clock
from ca.delivery_settings import SigningSettings
from ca.errors import ListenError
from ca.front import Front, FrontParts
from ca.issuance import Issuance
from ca.join_tokens import JoinTokenAttestor
from ca.own_identity import OwnIdentity, OwnIdentityParts
from ca.record_settings import CaCluster
from ca.registry import Registry
from ca.renewing import SvidAttestor
from ca.repeats import Repeats
from ca.service_account import ClusterRule, ServiceAccountAttestor
from ca.settings import CaSettings
from ca.signing_endpoints import serve_signing
from ca.store import Store
from ca.troubles import Probe
from identity.jwks_cache import JwksCache, RefreshTimes
from identity.jwt_rule import JwtRule
from identity.spiffe_id import SpiffeId
from identity.trust_bundle import TrustBundle

# BUDGET: how long a caller waits while the keys of its cluster are fetched anew.
_KEY_WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningHouse:
    """What the signing endpoints need of the CA around them.

    `bundle` has our roots, and every authority that helps to find a path for a leaf that is shown
    alone; `chain` is what leaves that are signed now are sent with; `sequence` counts the changes
    of the roots. `shares_port`: others listen on the same port.
    """

    settings: CaSettings
    issuance: Issuance
    store: Store
    registry: Registry
    bundle: Callable[[], TrustBundle]
    chain: Callable[[], tuple[x509.Certificate, ...]]
    sequence: Callable[[], int]
    is_able: Callable[[], bool]
    count_repeated: Callable[[], None]
    add_probe: Callable[[Probe], None]
    clock: Clock
    shares_port: bool = False


@asynccontextmanager
async def sign_over_the_network(
    house: SigningHouse, settings: SigningSettings
) -> AsyncIterator[None]:
    """Serve the signing endpoints while the context is entered.

    Raises:
        CaError: keys of a cluster, a certificate or an address cannot be had.
    """
    keys = JwksCache(times=RefreshTimes(wait_seconds=_KEY_WAIT_SECONDS))
    clusters = [_cluster_rule(cluster) for cluster in house.settings.clusters]
    try:
        await asyncio.to_thread(keys.prepare, [each.rule for each in clusters])
        service_account = ServiceAccountAttestor(
            clusters, keys.keys_for, house.clock, hasten=keys.hasten
        )
        front = Front(
            FrontParts(
                issuance=house.issuance,
                join_token=JoinTokenAttestor(house.store, house.clock),
                svid=SvidAttestor(house.bundle, house.store, house.registry, house.clock),
                repeats=_repeats(house),
                service_account=service_account if clusters else None,
            )
        )
        identity = await asyncio.to_thread(OwnIdentity, _own_identity_parts(house, settings))
        house.add_probe(identity.troubles)
        async with serve_signing(
            settings, front, identity, house.is_able, shares_port=house.shares_port
        ):
            yield
    finally:
        await asyncio.to_thread(keys.close)


def _repeats(house: SigningHouse) -> Repeats:
    """Return what keeps answers, until entries, denials or roots are others."""
    return Repeats(
        house.settings.limits.repeat_seconds,
        lambda: (house.registry.state.revision, house.sequence(), house.chain()),
        count=house.count_repeated,
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


def _own_identity_parts(house: SigningHouse, settings: SigningSettings) -> OwnIdentityParts:
    """Return what the endpoints' own certificate is made of."""
    spiffe_id = SpiffeId.parse(f"spiffe://{house.settings.domain}{settings.spiffe_path}")
    caller = Caller(
        method=Method.OPERATOR, granted=spiffe_id, evidence={"for": "the signing endpoints"}
    )
    return OwnIdentityParts(
        issue=partial(house.issuance.issue, spiffe_id, caller, dns_names=settings.dns_names),
        chain=house.chain,
        roots=lambda: house.bundle().x509_authorities,
        clock=house.clock,
        random=random.SystemRandom().random,
    )
