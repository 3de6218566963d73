"""Extension providers as Envoy's ext_authz filters, and why one cannot become one.

Spec: MeshConfig.ExtensionProvider; envoy.extensions.filters.{http,network}.ext_authz.v3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from policies.mesh import ExtensionProvider
from policies.rbac.filters import EXT_AUTHZ_PREFIX, TCP_STAT_PREFIX, ext_authz_filter, rbac_name
from policies.rbac.http_status import STATUS_NAMES
from policies.rbac.text import Json, exact, prefix, suffix

POLICY_PREFIX = "istio-ext-authz"
"""What the ids of CUSTOM rules begin with."""

_DEFAULT_TIMEOUT_SECONDS = 600.0
_PORT_MAX = 65535
_NANOSECONDS = 1_000_000_000


def find_provider(providers: Sequence[ExtensionProvider], name: str) -> ExtensionProvider | None:
    """Return the usable provider of that name, or None: unknown, defined twice or wrong."""
    found = [provider for provider in providers if provider.name == name]
    return found[0] if len(found) == 1 and not provider_problem(found[0]) else None


def provider_problem(provider: ExtensionProvider) -> str:
    """Return why Envoy cannot be told of a provider, or an empty text."""
    return next(_problems(provider), "")


def _problems(provider: ExtensionProvider) -> Iterator[str]:
    if not provider.name:
        yield "the provider has no name"
    if provider.kind == "rego":
        yield "a Rego provider is asked through Meshwarden, not by Envoy itself"
        return
    namespace, slash, host = provider.service.rpartition("/")
    if not host or (slash and not namespace) or "/" in namespace:
        yield f"`{provider.service}` is not of the form `<host>` or `<namespace>/<host>`"
    if not 1 <= provider.port <= _PORT_MAX:
        yield f"{provider.port} is not a port from 1 to {_PORT_MAX}"
    if provider.status_on_error and _status_name(provider.status_on_error) is None:
        yield f"`{provider.status_on_error}` is not an HTTP status that Envoy knows"
    if provider.path_prefix and not provider.path_prefix.startswith("/"):
        yield f"the path prefix `{provider.path_prefix}` does not begin with `/`"
    # "A lone `*` is rejected."
    if any("*" in names for names in _header_lists(provider)):
        yield "a lone `*` is no header name"


def provider_filter(provider: ExtensionProvider, *, tcp: bool) -> Json | None:
    """Return the filter that asks a usable provider, or None where there is none.

    "An HTTP provider is ignored on a TCP chain."
    """
    if provider.kind == "envoyExtAuthzHttp":
        return None if tcp else ext_authz_filter(_http_body(provider), tcp=False)
    return ext_authz_filter(_grpc_body(provider, tcp=tcp), tcp=tcp)


def _grpc_body(provider: ExtensionProvider, *, tcp: bool) -> Json:
    service = {
        "envoyGrpc": {"authority": _host(provider), "clusterName": _cluster(provider)},
        "timeout": _duration(provider.timeout_seconds),
    }
    if not tcp:
        return {**_shared_body(provider, tcp=False), **_http_only(provider), "grpcService": service}
    return {
        **_shared_body(provider, tcp=True),
        "grpcService": service,
        "statPrefix": TCP_STAT_PREFIX,
    }


def _http_body(provider: ExtensionProvider) -> Json:
    server = {
        "cluster": _cluster(provider),
        "timeout": _duration(provider.timeout_seconds),
        # Envoy wants one, and uses the cluster.
        "uri": f"http://{_host(provider)}",
    }
    service: Json = {"serverUri": server}
    if provider.path_prefix:
        service["pathPrefix"] = provider.path_prefix
    added = sorted(provider.include_additional_headers_in_check)
    if added:
        headers = [{"key": name, "value": value} for name, value in added]
        service["authorizationRequest"] = {"headersToAdd": headers}
    answer = {
        "allowedUpstreamHeaders": _header_patterns(provider.headers_to_upstream_on_allow),
        "allowedClientHeaders": _header_patterns(provider.headers_to_downstream_on_deny),
        "allowedClientHeadersOnSuccess": _header_patterns(provider.headers_to_downstream_on_allow),
    }
    if any(answer.values()):
        service["authorizationResponse"] = {k: v for k, v in answer.items() if v}
    body = {**_shared_body(provider, tcp=False), **_http_only(provider), "httpService": service}
    sent = _header_patterns(provider.include_request_headers_in_check)
    return {**body, "allowedHeaders": sent} if sent else body


def _shared_body(provider: ExtensionProvider, *, tcp: bool) -> Json:
    body: Json = {"failureModeAllow": True} if provider.fail_open else {}
    body["filterEnabledMetadata"] = {
        "filter": rbac_name(tcp=tcp),
        "path": [{"key": f"{EXT_AUTHZ_PREFIX}shadow_effective_policy_id"}],
        "value": {"stringMatch": prefix(f"{POLICY_PREFIX}-{provider.name}")},
    }
    body["transportApiVersion"] = "V3"
    return body


def _http_only(provider: ExtensionProvider) -> Json:
    """Return what the network filter has no field for."""
    body: Json = {}
    if provider.clear_route_cache:
        body["clearRouteCache"] = True
    if provider.status_on_error:
        name = _status_name(provider.status_on_error)
        body["statusOnError"] = {} if name == "Empty" else {"code": name}
    if provider.include_request_body is not None:
        body["withRequestBody"] = _buffer(provider.include_request_body)
    return body


def _buffer(settings: Mapping[str, object]) -> Json:
    known = ("maxRequestBytes", "allowPartialMessage", "packAsBytes")
    return {name: settings[name] for name in known if settings.get(name)}


def _header_lists(provider: ExtensionProvider) -> tuple[tuple[str, ...], ...]:
    return (
        provider.include_request_headers_in_check,
        provider.headers_to_upstream_on_allow,
        provider.headers_to_downstream_on_deny,
        provider.headers_to_downstream_on_allow,
    )


def _header_patterns(names: Sequence[str]) -> Json | None:
    """Return the matchers of header names, blind to case, or None for no names."""
    if not names:
        return None
    return {"patterns": [{**_header_pattern(name), "ignoreCase": True} for name in names]}


def _header_pattern(name: str) -> Json:
    if name.startswith("*"):
        return suffix(name[1:])
    return prefix(name[:-1]) if name.endswith("*") else exact(name)


def _host(provider: ExtensionProvider) -> str:
    return provider.service.rpartition("/")[2]


def _cluster(provider: ExtensionProvider) -> str:
    return f"outbound|{provider.port}||{_host(provider)}"


def _status_name(text: str) -> str | None:
    return STATUS_NAMES.get(int(text)) if text.isascii() and text.isdigit() else None


def _duration(seconds: float | None) -> str:
    """Return a protobuf-JSON duration: with 0, 3, 6 or 9 digits after the point."""
    total = round((_DEFAULT_TIMEOUT_SECONDS if seconds is None else seconds) * _NANOSECONDS)
    whole, rest = divmod(total, _NANOSECONDS)
    digits = f"{rest:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return f"{whole}.{digits}s" if digits else f"{whole}s"
