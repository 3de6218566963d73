"""The Envoy configuration that fits this authorizer and this CA, as message objects.

Pure functions from names and addresses to `envoy-data-plane` messages, and one
that writes messages as the YAML Envoy reads. What is printed fails closed: no
answer from the authorizer means no entry.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import betterproto2
import yaml
from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    ConfigSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    Http2ProtocolOptions,
    Pipe,
    SocketAddress,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import ExtAuthz
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsExplicitHttpConfig,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any as AnyMessage

AUTHORIZER_CLUSTER: Final = "meshwarden"
SDS_CLUSTER: Final = "meshwarden_sds"
SVID_SECRET: Final = "default"  # noqa: S105 - the name of an SDS resource
BUNDLE_SECRET: Final = "ROOTCA"  # noqa: S105 - the name of an SDS resource
LABELS_KEY: Final = "LABELS"
PEER_STATE: Final = "%FILTER_STATE(io.istio.peer_principal:PLAIN)%"
EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"

# BUDGET: connections of one Envoy for each worker of the authorizer (each of its threads has one in
# any case), and how many checks may wait for one for each second that a check may wait: a
# few, for as many as there are threads wait on each connection already.
_CONNECTIONS: Final = 4
_PENDING_A_SECOND: Final = 400
_UNIX: Final = "unix:"
_CONNECT_SECONDS: Final = 1.0
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS: Final = "envoy.transport_sockets.tls"


class EnvoyConfigError(ValueError):
    """An address cannot be written into an Envoy configuration."""

    code = "authz.envoy_config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippets:
    """The pieces a person pastes into a proxy's configuration."""

    http_filter: HttpFilter
    clusters: tuple[Cluster, ...]
    downstream_transport_socket: TransportSocket | None = None
    upstream_transport_socket: TransportSocket | None = None


def pack(message: betterproto2.Message) -> AnyMessage:
    """Return the message as a `typed_config`."""
    return AnyMessage.pack(message)


def address(listen: str) -> Address:
    """Return the Envoy address of `host:port`, `[v6]:port` or `unix:///path`.

    Raises:
        EnvoyConfigError: the text is none of these.
    """
    if listen.startswith(_UNIX):
        path = listen.removeprefix(_UNIX)
        # gRPC naming: `unix:path` and `unix:///absolute/path` are the same socket.
        return Address(pipe=Pipe(path="/" + path.lstrip("/") if path.startswith("//") else path))
    host, colon, port = listen.rpartition(":")
    # `isdecimal` also takes digits of other scripts, and `int` would read them.
    if not (colon and host and port.isascii() and port.isdecimal()):
        raise EnvoyConfigError(f"`{listen}` is no address: expected `host:port` or `unix:///path`")
    if int(port) > 65535:
        raise EnvoyConfigError(f"`{listen}` is no address: a port ends at 65535")
    return Address(
        socket_address=SocketAddress(address=host.strip("[]"), port_value=int(port)),
    )


def cluster(name: str, listen: str, *, http2: bool = False) -> Cluster:
    """Return a cluster of the one end point `listen`; gRPC needs `http2`."""
    where = address(listen)
    named = where.socket_address is not None and not _is_ip(where.socket_address.address)
    endpoint = LbEndpoint(endpoint=Endpoint(address=where))
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STRICT_DNS if named else ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=_CONNECT_SECONDS),
        load_assignment=ClusterLoadAssignment(
            cluster_name=name, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
        typed_extension_protocol_options={_HTTP_OPTIONS: pack(_http2())} if http2 else {},
    )


def authorizer_cluster(listen: str, most: CircuitBreakersThresholds | None = None) -> Cluster:
    """Return the cluster of an authorizer, of which an Envoy wants no more than `most` at once.

    What exceeds it is refused by Envoy, and costs the authorizer nothing.
    """
    found = cluster(AUTHORIZER_CLUSTER, listen, http2=True)
    found.circuit_breakers = CircuitBreakers(thresholds=[most or most_at_once()])
    return found


def most_at_once(workers: int = 1, wait_seconds: float = 0.02) -> CircuitBreakersThresholds:
    """Return what one Envoy may want of an authorizer with so many workers.

    A check may wait for so long, with 0 as long as it will.

    Spec: Envoy 1.40 `envoy.config.cluster.v3.CircuitBreakers.Thresholds`.
    """
    found = CircuitBreakersThresholds(max_connections=_CONNECTIONS * workers)
    if wait_seconds:
        found.max_pending_requests = max(1, round(_PENDING_A_SECOND * wait_seconds)) * workers
    return found


def ext_authz_filter(*, timeout_seconds: float = 0.2, peer_metadata_key: str = "") -> HttpFilter:
    """Return the `ext_authz` HTTP filter that asks the cluster `meshwarden`.

    With a `peer_metadata_key`, each check carries under it the peer that a waypoint's
    listener put into the filter state.

    Spec: Envoy 1.40 `envoy.extensions.filters.http.ext_authz.v3.ExtAuthz`.
    """
    return HttpFilter(
        name=EXT_AUTHZ,
        typed_config=pack(
            ExtAuthz(
                grpc_service=GrpcService(
                    envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=AUTHORIZER_CLUSTER),
                    timeout=timedelta(seconds=timeout_seconds),
                    # WHY not a header of the request: one that a client wrote stays where
                    # there is no filter state, and nobody could tell.
                    initial_metadata=[HeaderValue(key=peer_metadata_key, value=PEER_STATE)]
                    if peer_metadata_key
                    else [],
                ),
                transport_api_version=ApiVersion.V3,
                # INVARIANT: an authorizer that does not answer lets nobody in. (`false` is
                # also the default, which is why it does not show in what is printed.)
                failure_mode_allow=False,
                status_on_error=HttpStatus(code=StatusCode.Forbidden),
                include_peer_certificate=True,
                include_tls_session=True,
                # WHY: without it two headers of one name arrive joined by a comma, and an
                # exact condition cannot be answered as Envoy's own RBAC would.
                encode_raw_headers=True,
                bootstrap_metadata_labels_key=LABELS_KEY,
            )
        ),
    )


def downstream_tls(*, sds_cluster: str = SDS_CLUSTER) -> TransportSocket:
    """Return the listener's side of mTLS: our SVID, and a client certificate is required."""
    context = DownstreamTlsContext(
        common_tls_context=_common_tls(sds_cluster, ()),
        require_client_certificate=True,
    )
    return TransportSocket(name=_TLS, typed_config=pack(context))


def upstream_tls(
    *, server_ids: Sequence[str] = (), sds_cluster: str = SDS_CLUSTER
) -> TransportSocket:
    """Return the cluster's side of mTLS: our SVID, towards a server with one of `server_ids`.

    `server_ids` are SPIFFE IDs; without any, every server of the trust domain will do.
    """
    context = UpstreamTlsContext(common_tls_context=_common_tls(sds_cluster, server_ids))
    return TransportSocket(name=_TLS, typed_config=pack(context))


def envoy_snippets(
    grpc_listen: str,
    sds_socket: str = "",
    *,
    timeout_seconds: float = 0.2,
    server_ids: Sequence[str] = (),
    peer_metadata_key: str = "",
    most: CircuitBreakersThresholds | None = None,
) -> str:
    """Return, as YAML, what a proxy needs to ask this authorizer and to fetch its SVID.

    `grpc_listen` is the authorizer's `host:port` or `unix:///path`; `sds_socket` is the
    path of the Unix socket on which the CA serves this workload (empty: no TLS part).
    `peer_metadata_key` is `identity.waypoint.peerMetadataKey` of a waypoint's authorizer,
    `most` is what one Envoy may want of it at once.
    """
    clusters = [authorizer_cluster(grpc_listen, most)]
    if sds_socket:
        clusters.append(cluster(SDS_CLUSTER, f"{_UNIX}{sds_socket}", http2=True))
    return render_snippets(
        Snippets(
            http_filter=ext_authz_filter(
                timeout_seconds=timeout_seconds, peer_metadata_key=peer_metadata_key
            ),
            clusters=tuple(clusters),
            downstream_transport_socket=downstream_tls() if sds_socket else None,
            upstream_transport_socket=upstream_tls(server_ids=server_ids) if sds_socket else None,
        )
    )


def render_snippets(snippets: Snippets) -> str:
    """Return the pieces as one YAML document, each under a comment that says where it goes."""
    parts: list[tuple[str, str, Any]] = [
        (
            "http_filters of the HTTP connection manager, before the router. failure_mode_allow\n"
            "# is false, Envoy's default: no answer from Meshwarden means no entry.",
            "http_filters",
            [to_plain(snippets.http_filter)],
        ),
        ("static_resources.clusters", "clusters", [to_plain(each) for each in snippets.clusters]),
    ]
    if snippets.downstream_transport_socket is not None:
        where = "transport_socket of the listener's filter chain: mTLS is required"
        parts.append(
            (where, "downstream_transport_socket", to_plain(snippets.downstream_transport_socket))
        )
    if snippets.upstream_transport_socket is not None:
        where = "transport_socket of a cluster that is called over mTLS"
        parts.append(
            (where, "upstream_transport_socket", to_plain(snippets.upstream_transport_socket))
        )
    return "\n".join(f"# {where}\n{to_yaml({key: value})}" for where, key, value in parts)


def render(message: betterproto2.Message) -> str:
    """Return one message (a bootstrap, say) as YAML that Envoy reads."""
    return to_yaml(to_plain(message))


def to_plain(message: betterproto2.Message) -> dict[str, Any]:
    """Return the message in proto JSON shape with the field names of Envoy's own pages."""
    return message.to_dict(casing=betterproto2.Casing.SNAKE)


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Return plain values as block YAML in the order they were given."""
    return yaml.safe_dump(dict(plain), sort_keys=False, default_flow_style=False, width=100)


def _common_tls(sds_cluster: str, peer_ids: Sequence[str]) -> CommonTlsContext:
    """Return the certificate and the validation context, both of them over SDS."""
    return CommonTlsContext(
        tls_certificate_sds_secret_configs=[_secret(SVID_SECRET, sds_cluster)],
        combined_validation_context=CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(
                match_typed_subject_alt_names=[
                    SubjectAltNameMatcher(
                        san_type=SubjectAltNameMatcherSanType.URI,
                        matcher=StringMatcher(exact=peer_id),
                    )
                    for peer_id in peer_ids
                ]
            ),
            validation_context_sds_secret_config=_secret(BUNDLE_SECRET, sds_cluster),
        ),
    )


def _secret(name: str, sds_cluster: str) -> SdsSecretConfig:
    """Return the subscription to one secret of the CA."""
    service = GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=sds_cluster))
    source = ApiConfigSource(
        api_type=ApiConfigSourceApiType.GRPC,
        transport_api_version=ApiVersion.V3,
        grpc_services=[service],
    )
    return SdsSecretConfig(
        name=name,
        sds_config=ConfigSource(api_config_source=source, resource_api_version=ApiVersion.V3),
    )


def _http2() -> HttpProtocolOptions:
    """Return the options that make a cluster speak HTTP/2 without asking."""
    return HttpProtocolOptions(
        explicit_http_config=HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=Http2ProtocolOptions()
        )
    )


def _is_ip(host: str) -> bool:
    """Whether the host is an IP text, which needs no resolver."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
