"""The bootstrap of the Envoy that runs the authorizer: one listener, no cluster, no route.

Headers by which Envoy tells the application of a call are set over whatever a client wrote
there; what clients may have open and send is in `authz.envoy_limits`.

Spec: Envoy 1.40 `envoy.config.bootstrap.v3.Bootstrap`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapStaticResources,
    MemoryAllocatorManager,
)
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as OneMutation
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    AsyncDataSource,
    ConfigSource,
    DataSource,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    Node,
    PathConfigSource,
    Pipe,
    TransportSocket,
)
from envoy_data_plane.envoy.config.listener.v3 import Filter, FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    FilterConfig,
    NonForwardingAction,
    Route,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.dynamic_modules.v3 import DynamicModuleConfig
from envoy_data_plane.envoy.extensions.filters.http.adaptive_concurrency.v3 import (
    AdaptiveConcurrency,
    GradientControllerConfig,
    GradientControllerConfigConcurrencyLimitCalculationParams,
    GradientControllerConfigMinimumRttCalculationParams,
)
from envoy_data_plane.envoy.extensions.filters.http.buffer.v3 import Buffer
from envoy_data_plane.envoy.extensions.filters.http.dynamic_modules.v3 import DynamicModuleFilter
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerCodecType,
    HttpConnectionManagerServerHeaderTransformation,
    HttpFilter,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    TlsParameters,
    TlsParametersTlsProtocol,
)
from envoy_data_plane.google.protobuf import Any as AnyMessage
from envoy_data_plane.google.protobuf import StringValue

from authz.envoy_config import pack
from authz.envoy_limits import (
    CONNECTION_WINDOW,
    http2_limits,
    http_limits,
    limits_of_all,
    runtime_limits,
)
from authz.envoy_place import CERTIFICATE_SECRET, ROOTS_SECRET, STAT_PREFIX, secret_file
from authz.envoy_short_way import by_the_long_way, is_a_check, short_way
from authz.grpc_over_wsgi import (
    ARRIVED_HEADER,
    BODY_HEADER,
    CLIENT_HEADER,
    FROM_HEADER,
    HEALTH_PATH,
    MESSAGE_MAX,
    PREFIX_BYTES,
)

_APPLICATION: Final = "authz.envoy_app:application"
_LIMITER: Final = "envoy.filters.http.adaptive_concurrency"
_MODULE: Final = "pyvoy"
_NAME: Final = "meshwarden"
# BUDGET: checks that are open in the process, waiting or not; at least one for each thread, and
# as many as a core that recalls decisions answers within the target, at so many a second. The least
# is also what counts at first, when a worker takes over the clients of another.
_OPEN_LEAST_A_SECOND: Final = 6400
_OPEN_MOST: Final = 1000
# How often that is judged anew.
_LIMIT_SECONDS: Final = 0.1
_HEADERS_KB: Final = 16
# BUDGET: a whole check is sent in one go, and asked for 200 ms as a rule.
_REQUEST_SECONDS: Final = 10
# How long a client may go on with what it sent before it knew of GOAWAY.
_GOAWAY_SECONDS: Final = 1
# BUDGET: bytes given back each second, some 250 pages that may have to be got again; more at once
# where so much of what is held is not in use.
_RELEASED_A_SECOND: Final = 1024 * 1024
_UNFREED: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What the listener is: where, for how many threads, and with which files.

    `target_seconds` is how long a check may wait, 0: as long as it may be.
    `secrets` is the folder of SDS files where there is TLS, None without; `asks_clients` whether
    clients must show a certificate; with `shares_port` other processes listen there as well.
    """

    address: Address
    threads: int
    target_seconds: float
    module: Path
    admin: Path
    secrets: Path | None = None
    asks_clients: bool = False
    shares_port: bool = False


def bootstrap(front: Front) -> Bootstrap:
    """Return the whole configuration."""
    return Bootstrap(
        # Nobody is told of it, but Envoy takes up no secrets without a name.
        node=Node(id=_NAME, cluster=_NAME),
        admin=Admin(address=Address(pipe=Pipe(path=str(front.admin), mode=0o600))),
        static_resources=BootstrapStaticResources(listeners=[_listener(front)]),
        layered_runtime=runtime_limits(),
        overload_manager=limits_of_all(),
        # WHY: what Python frees in here is Envoy's allocator's, which keeps it: glibc, which is
        # told to give back after a reload (`authz.interpreter`), has none of it.
        memory_allocator_manager=MemoryAllocatorManager(
            bytes_to_release=_RELEASED_A_SECOND, max_unfreed_memory_bytes=_UNFREED
        ),
    )


def _listener(front: Front) -> Listener:
    chain = FilterChain(
        filters=[
            Filter(
                name="envoy.filters.network.http_connection_manager",
                typed_config=pack(_connection_manager(front)),
            )
        ]
    )
    if front.secrets is not None:
        chain.transport_socket = _tls(front.secrets, asks_clients=front.asks_clients)
    return Listener(
        name="checks",
        address=front.address,
        filter_chains=[chain],
        enable_reuse_port=front.shares_port,
        per_connection_buffer_limit_bytes=CONNECTION_WINDOW,
    )


def _connection_manager(front: Front) -> HttpConnectionManager:
    return HttpConnectionManager(
        codec_type=HttpConnectionManagerCodecType.HTTP2,
        stat_prefix=STAT_PREFIX,
        route_config=RouteConfiguration(virtual_hosts=[_routes()]),
        http_filters=[
            _tell_of_the_call(front),
            _whole_requests(),
            # Order counts: a client that is slow to send holds nobody's place.
            *([_no_more_than_in_time(front)] if front.target_seconds else []),
            *short_way(),
            _application(front),
        ],
        common_http_protocol_options=http_limits(),
        # WHY: one connection can have all threads busy, and what it has open beyond waits here,
        # where nobody knows how long its client waits. A client with more opens another,
        # or has them wait itself; what waits there costs this core nothing.
        http2_protocol_options=http2_limits(front.threads),
        max_request_headers_kb=_HEADERS_KB,
        request_timeout=timedelta(seconds=_REQUEST_SECONDS),
        drain_timeout=timedelta(seconds=_GOAWAY_SECONDS),
        generate_request_id=False,
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
    )


def _routes() -> VirtualHost:
    """Return what is known of paths: health is told however many checks there are."""
    unlimited = {_LIMITER: pack(FilterConfig(disabled=True))}
    check = _route(is_a_check(), {})
    health = _route(RouteMatch(path=HEALTH_PATH), unlimited | by_the_long_way())
    others = _route(RouteMatch(prefix="/"), by_the_long_way())
    return VirtualHost(name="checks", domains=["*"], routes=[check, health, others])


def _route(match: RouteMatch, filters: dict[str, AnyMessage]) -> Route:
    return Route(
        match=match,
        non_forwarding_action=NonForwardingAction(),
        typed_per_filter_config=filters,
    )


def _no_more_than_in_time(front: Front) -> HttpFilter:
    """Refuse what would wait too long, before the application hears of it: UNAVAILABLE.

    How many checks may be open follows from how long they take: fewer, once half of them took
    longer than the target. `authz.overload` refuses of those what came late all the same;
    a refusal there costs most of what an answer costs.
    """
    target = timedelta(seconds=front.target_seconds)
    fewest = max(round(_OPEN_LEAST_A_SECOND * front.target_seconds), front.threads)
    return HttpFilter(
        name=_LIMITER,
        typed_config=pack(
            AdaptiveConcurrency(
                gradient_controller_config=GradientControllerConfig(
                    concurrency_limit_params=(
                        GradientControllerConfigConcurrencyLimitCalculationParams(
                            max_concurrency_limit=max(_OPEN_MOST, fewest),
                            concurrency_update_interval=timedelta(seconds=_LIMIT_SECONDS),
                        )
                    ),
                    min_rtt_calc_params=GradientControllerConfigMinimumRttCalculationParams(
                        fixed_value=target, min_concurrency=fewest
                    ),
                )
            )
        ),
    )


def _tell_of_the_call(front: Front) -> HttpFilter:
    """Set the headers by which the application knows when a call came, and from whom."""
    told = {ARRIVED_HEADER: "%START_TIME(%s.%6f)%"}
    if front.asks_clients:
        told |= {
            CLIENT_HEADER: "%DOWNSTREAM_PEER_URI_SAN%",
            FROM_HEADER: "%DOWNSTREAM_REMOTE_ADDRESS%",
        }
    action = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    names = (ARRIVED_HEADER, BODY_HEADER, CLIENT_HEADER, FROM_HEADER)
    removed = [OneMutation(remove=name) for name in names]
    added = [
        OneMutation(
            append=HeaderValueOption(header=HeaderValue(key=key, value=value), append_action=action)
        )
        for key, value in told.items()
    ]
    mutations = Mutations(request_mutations=[*removed, *added])
    return HttpFilter(
        name="envoy.filters.http.header_mutation",
        typed_config=pack(HeaderMutation(mutations=mutations)),
    )


def _whole_requests() -> HttpFilter:
    """Wait for a request's end: a thread that reads a slow client would answer nobody else."""
    return HttpFilter(
        name="envoy.filters.http.buffer",
        typed_config=pack(Buffer(max_request_bytes=MESSAGE_MAX + PREFIX_BYTES)),
    )


def _application(front: Front) -> HttpFilter:
    configuration = {
        "app": _APPLICATION,
        "interface": "wsgi",
        "root_path": "",
        "worker_threads": front.threads,
    }
    return HttpFilter(
        name=_MODULE,
        typed_config=pack(
            DynamicModuleFilter(
                dynamic_module_config=DynamicModuleConfig(
                    module=AsyncDataSource(local=DataSource(filename=str(front.module)))
                ),
                filter_name=_MODULE,
                filter_config=pack(StringValue(value=json.dumps(configuration))),
                terminal_filter=True,
            )
        ),
    )


def _tls(secrets: Path, *, asks_clients: bool) -> TransportSocket:
    """Return the listener's TLS, its certificate and its clients' roots from the SDS files."""
    context = CommonTlsContext(
        tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
        tls_certificate_sds_secret_configs=[_secret(CERTIFICATE_SECRET, secrets)],
        alpn_protocols=["h2"],
    )
    if asks_clients:
        context.validation_context_sds_secret_config = _secret(ROOTS_SECRET, secrets)
    return TransportSocket(
        name="envoy.transport_sockets.tls",
        typed_config=pack(
            DownstreamTlsContext(
                common_tls_context=context, require_client_certificate=asks_clients
            )
        ),
    )


def _secret(name: str, folder: Path) -> SdsSecretConfig:
    path = str(secret_file(folder, name))
    source = ConfigSource(path_config_source=PathConfigSource(path=path))
    return SdsSecretConfig(name=name, sds_config=source)
