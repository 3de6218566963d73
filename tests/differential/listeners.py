"""The two listeners of a policy set: Envoy's own filters, and ours asked by ext_authz.

Both have one chain for TLS and one for plaintext, take the destination from the PROXY
protocol when it is there, and answer 200 to what their filters let through. They differ
in the filters under trial and in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from authz import envoy_config
from identity.jwt_rule import JwtRule
from tests.jwt_authn import provider_of, requirement_of

AUTHORIZER = envoy_config.AUTHORIZER_CLUSTER
PROVIDER = "provider.example"
PROVIDER_PORTS = {"checker": 9000, "second": 9001}
"""The CUSTOM providers that the mesh knows, and the ports of their service."""
ECHO = "echo"
# BUDGET: an answer of ours on a busy machine; later is a difference by itself.
_CHECK_SECONDS = 5.0
_TYPES = "type.googleapis.com/envoy.extensions"

Plain = dict[str, Any]


def _typed(name: str, kind: str, **fields: Any) -> Plain:
    """Return a named extension of type `envoy.extensions.<kind>`."""
    return {"name": name, "typed_config": {"@type": f"{_TYPES}.{kind}", **fields}}


# -- filters ------------------------------------------------------------------------------------


def native_filters(compiled: Sequence[Plain], rules: Sequence[JwtRule]) -> list[Plain]:
    """Return the HTTP filters in Istio's order: CUSTOM, token, AUDIT, DENY, ALLOW."""
    filters = [dict(each) for each in compiled]
    custom = [n for n, each in enumerate(filters) if "istio-ext-authz" in repr(each)]
    if rules:
        filters.insert(max(custom, default=-1) + 1, jwt_filter(rules))
    return filters


def our_filters(*, namespaces: Sequence[str] = ()) -> list[Plain]:
    """Return the filter that `meshwarden envoy-config` prints, with the metadata it may need."""
    found = envoy_config.to_plain(envoy_config.ext_authz_filter(timeout_seconds=_CHECK_SECONDS))
    if namespaces:
        found["typed_config"]["metadata_context_namespaces"] = list(namespaces)
    return [found]


def our_network_filters() -> list[Plain]:
    """Return the network filter that asks us about a connection."""
    service = {"envoy_grpc": {"cluster_name": AUTHORIZER}, "timeout": f"{_CHECK_SECONDS}s"}
    kind = "filters.network.ext_authz.v3.ExtAuthz"
    return [
        _typed(
            "envoy.filters.network.ext_authz",
            kind,
            stat_prefix="ours",
            grpc_service=service,
            transport_api_version="V3",
            include_peer_certificate=True,
            include_tls_session=True,
        )
    ]


def jwt_filter(rules: Sequence[JwtRule]) -> Plain:
    """Return the `jwt_authn` filter that Istio builds for rules in their order."""
    names = [f"origins-{number}" for number in range(len(rules))]
    providers = dict(zip(names, map(provider_of, rules), strict=True))
    return _typed(
        "envoy.filters.http.jwt_authn",
        "filters.http.jwt_authn.v3.JwtAuthentication",
        providers=providers,
        rules=[{"match": {"prefix": "/"}, "requires": requirement_of(names)}],
        bypass_cors_preflight=True,
    )


# -- listeners ----------------------------------------------------------------------------------


def http_listener(
    name: str, filters: Sequence[Plain], mesh: Mapping[str, Any], tls: Plain
) -> Plain:
    """Return the listener of HTTP filters."""
    return _listener(name, [_manager(filters, mesh)], tls)


def tcp_listener(name: str, filters: Sequence[Plain], tls: Plain) -> Plain:
    """Return the listener of network filters, before a server that answers every connection."""
    proxy = _typed(
        "envoy.filters.network.tcp_proxy",
        "filters.network.tcp_proxy.v3.TcpProxy",
        stat_prefix="t",
        cluster=ECHO,
    )
    return _listener(name, [*filters, proxy], tls)


def _listener(name: str, filters: list[Plain], tls: Plain) -> Plain:
    """Return a listener that has no address yet."""
    proxy = _typed(
        "envoy.filters.listener.proxy_protocol",
        "filters.listener.proxy_protocol.v3.ProxyProtocol",
        allow_requests_without_proxy_protocol=True,
    )
    inspector = _typed(
        "envoy.filters.listener.tls_inspector",
        "filters.listener.tls_inspector.v3.TlsInspector",
    )
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": name,
        "listener_filters": [proxy, inspector],
        "filter_chains": [
            {
                "filter_chain_match": {"transport_protocol": "tls"},
                "filters": filters,
                "transport_socket": tls,
            },
            {"filters": filters},
        ],
    }


def tls_socket(root: str, chain: str, key: str) -> Plain:
    """Return a transport socket that takes a client certificate of `root`, or none."""
    return _typed(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.DownstreamTlsContext",
        require_client_certificate=False,
        common_tls_context={
            "tls_certificates": [
                {
                    "certificate_chain": {"inline_string": chain},
                    "private_key": {"inline_string": key},
                }
            ],
            "validation_context": {"trusted_ca": {"inline_string": root}},
        },
    )


_NORMALIZATION: dict[str, Plain] = {
    "NONE": {"normalize_path": False},
    "BASE": {"normalize_path": True},
    "MERGE_SLASHES": {"normalize_path": True, "merge_slashes": True},
    "DECODE_AND_MERGE_SLASHES": {
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
    },
}


def _manager(filters: Sequence[Plain], mesh: Mapping[str, Any]) -> Plain:
    """Return the HTTP connection manager as Istio sets it up inbound."""
    hops = mesh.get("gateway_hops")
    routes = [
        {"match": match, "direct_response": {"status": 200}}
        for match in ({"connect_matcher": {}}, {"safe_regex": {"regex": r"[\s\S]*"}})
    ]
    details = {
        "header": {"key": "x-details", "value": "%RESPONSE_CODE_DETAILS%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    from_400 = {"op": "GE", "value": {"default_value": 400, "runtime_key": "x"}}
    return _typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="t",
        **_NORMALIZATION[mesh.get("path_normalization", "BASE")],
        use_remote_address=hops is not None,
        xff_num_trusted_hops=hops or 0,
        http_protocol_options={"allow_custom_methods": True},
        # A request that the codec refuses ends alone, and not the connection a second later.
        http2_protocol_options={"override_stream_error_on_invalid_http_message": True},
        http_filters=[
            _metadata_filter(),
            *filters,
            _typed("envoy.filters.http.router", "filters.http.router.v3.Router"),
        ],
        route_config={
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
        },
        local_reply_config={
            "mappers": [
                {
                    "filter": {"status_code_filter": {"comparison": from_400}},
                    "headers_to_add": [details],
                }
            ]
        },
    )


METADATA = "envoy.filters.http.header_to_metadata"


def _metadata_filter() -> Plain:
    """Return a filter that writes dynamic metadata for `experimental.envoy.filters.*`."""
    rule = {
        "header": "x-meta",
        "on_header_present": {"metadata_namespace": METADATA, "key": "key", "type": "STRING"},
    }
    any_type = {
        "header": "x-meta-value",
        "on_header_present": {
            "metadata_namespace": METADATA,
            "key": "other",
            "type": "PROTOBUF_VALUE",
            "encode": "BASE64",
        },
    }
    rules = [rule, any_type]
    return _typed(METADATA, "filters.http.header_to_metadata.v3.Config", request_rules=rules)


# -- bootstrap ----------------------------------------------------------------------------------


def bootstrap(lds: str, ports: Mapping[str, int]) -> Plain:
    """Return the bootstrap: clusters on loopback, listeners from the file `lds`.

    `ports` are those of `authorizer`, `echo` and each of `PROVIDER_PORTS`.
    """
    clusters = [
        _cluster(AUTHORIZER, ports["authorizer"]),
        _cluster(ECHO, ports["echo"], grpc=False),
    ]
    clusters += [
        _cluster(f"outbound|{port}||{PROVIDER}", ports[name])
        for name, port in PROVIDER_PORTS.items()
    ]
    any_port = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    return {
        "node": {"id": "differential", "cluster": "differential"},
        "admin": {"address": any_port},
        "dynamic_resources": {"lds_config": {"path_config_source": {"path": lds}}},
        "static_resources": {"clusters": clusters},
        # Istio cuts a fragment off where Envoy by default refuses the request.
        "layered_runtime": {
            "layers": [
                {
                    "name": "istio",
                    "static_layer": {
                        "envoy.reloadable_features.http_reject_path_with_fragment": False
                    },
                }
            ]
        },
    }


def _cluster(name: str, port: int, *, grpc: bool = True) -> Plain:
    return envoy_config.to_plain(envoy_config.cluster(name, f"127.0.0.1:{port}", http2=grpc))
