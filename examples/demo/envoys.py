"""The two Envoys of the demo: what their bootstraps say.

The server-side one has one port for mTLS and plaintext alike, so that a request
without a peer is denied for having no peer and not for knocking at the wrong door.
The client-side one has a plain listener on loopback for each identity and speaks
mTLS to the server side as that identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

from envoy_data_plane.envoy.config.bootstrap.v3 import Admin, Bootstrap, BootstrapStaticResources
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.config.listener.v3 import (
    Filter,
    FilterChain,
    FilterChainMatch,
    Listener,
    ListenerFilter,
)
from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import (
    CheckSettings,
    ExtAuthzPerRoute,
)
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 import TlsInspector
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.google.protobuf import Struct

from authz import envoy_config
from examples.demo.identities import (
    CLIENTS,
    PLAINTEXT,
    SERVER,
    SERVER_ACCOUNT,
    SERVER_NAMESPACE,
    spiffe_id,
)
from examples.demo.loopback import LOOPBACK

_ANY_PORT = f"{LOOPBACK}:0"
# BUDGET: a cold authorizer's first answer on a busy machine; a request waits no longer.
_CHECK_SECONDS = 2.0


def server_side(*, grpc_listen: str, sds_socket: Path, upstream: str) -> Bootstrap:
    """Return the bootstrap of the Envoy in front of the upstream.

    `grpc_listen` is the authorizer's address, `upstream` the service's `host:port`.
    """
    # No certificate names the workload on a plaintext connection, so the route says it.
    named = {
        "meshwarden.namespace": SERVER_NAMESPACE,
        "meshwarden.service_account": SERVER_ACCOUNT,
    }
    chains = [
        FilterChain(
            name="mtls",
            filter_chain_match=FilterChainMatch(transport_protocol="tls"),
            filters=[_manager("mtls", "upstream", check_with={})],
            transport_socket=envoy_config.downstream_tls(),
        ),
        FilterChain(
            name="plaintext",
            filter_chain_match=FilterChainMatch(transport_protocol="raw_buffer"),
            filters=[_manager("plaintext", "upstream", check_with=named)],
        ),
    ]
    inspector = ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=envoy_config.pack(TlsInspector())
    )
    inbound = Listener(
        name="inbound",
        address=envoy_config.address(_ANY_PORT),
        listener_filters=[inspector],
        filter_chains=chains,
    )
    clusters = [
        envoy_config.cluster("upstream", upstream),
        envoy_config.authorizer_cluster(grpc_listen),
        envoy_config.cluster(envoy_config.SDS_CLUSTER, f"unix:{sds_socket}", http2=True),
    ]
    return _bootstrap("server-side", [inbound], clusters, labels={"app": SERVER})


def client_side(*, server_listen: str, sds_sockets: Mapping[str, Path]) -> Bootstrap:
    """Return the bootstrap of the Envoy that plays every client, one listener each."""
    listeners = [_outbound(name) for name in (*CLIENTS, PLAINTEXT)]
    clusters = [envoy_config.cluster(f"to-orders-as-{PLAINTEXT}", server_listen)]
    for name in CLIENTS:
        secrets = f"sds-{name}"
        clusters.append(
            envoy_config.cluster(secrets, f"unix:{sds_sockets[name]}", http2=True),
        )
        to_orders = envoy_config.cluster(f"to-orders-as-{name}", server_listen)
        to_orders.transport_socket = envoy_config.upstream_tls(
            server_ids=(spiffe_id(SERVER),), sds_cluster=secrets
        )
        clusters.append(to_orders)
    return _bootstrap("client-side", listeners, clusters, labels={})


def _outbound(name: str) -> Listener:
    """Return the loopback listener whose requests leave as one identity."""
    return Listener(
        name=name,
        address=envoy_config.address(_ANY_PORT),
        filter_chains=[FilterChain(filters=[_manager(name, f"to-orders-as-{name}")])],
    )


def _manager(name: str, to_cluster: str, *, check_with: Mapping[str, str] | None = None) -> Filter:
    """Return an HTTP connection manager with one route for everything.

    With `check_with` (the `context_extensions`, maybe none) the authorizer is asked
    before the router; only then is the path normalized, so that a client's path
    arrives as it was sent.
    """
    route = Route(
        match=RouteMatch(prefix="/"),
        route=RouteAction(cluster=to_cluster, timeout=timedelta(seconds=10)),
    )
    host = VirtualHost(name="all", domains=["*"], routes=[route])
    filters = [
        HttpFilter(name="envoy.filters.http.router", typed_config=envoy_config.pack(Router()))
    ]
    if check_with is not None:
        filters.insert(0, envoy_config.ext_authz_filter(timeout_seconds=_CHECK_SECONDS))
    if check_with:
        settings = CheckSettings(context_extensions=dict(check_with))
        packed = envoy_config.pack(ExtAuthzPerRoute(check_settings=settings))
        host.typed_per_filter_config[envoy_config.EXT_AUTHZ] = packed
    manager = HttpConnectionManager(
        stat_prefix=name,
        route_config=RouteConfiguration(name=name, virtual_hosts=[host]),
        http_filters=filters,
        normalize_path=check_with is not None,
    )
    return Filter(
        name="envoy.filters.network.http_connection_manager",
        typed_config=envoy_config.pack(manager),
    )


def _bootstrap(
    node: str, listeners: list[Listener], clusters: list[Cluster], *, labels: dict[str, str]
) -> Bootstrap:
    """Return a bootstrap with an admin page on a free port of loopback."""
    metadata = Struct.from_dict({envoy_config.LABELS_KEY: labels}) if labels else None
    return Bootstrap(
        node=Node(id=f"demo-{node}", cluster="demo", metadata=metadata),
        admin=Admin(address=envoy_config.address(_ANY_PORT)),
        static_resources=BootstrapStaticResources(listeners=listeners, clusters=clusters),
    )
