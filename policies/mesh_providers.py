"""Extension providers as MeshConfig writes them: the external authorizers, and our own kind.

Spec: istio.mesh.v1alpha1.MeshConfig.ExtensionProvider.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from policies.diagnostic import Diagnostic, Severity, shown
from policies.documents import YamlMap, YamlNode, YamlScalar
from policies.fields import Fields, Findings, kind_of
from policies.mesh import ExtensionProvider, ProviderKind

HEADER_MAP = "includeAdditionalHeadersInCheck"

_KINDS: tuple[ProviderKind, ...] = get_args(ProviderKind)
_FOREIGN_KINDS = frozenset(
    (
        "datadog", "envoyFileAccessLog", "envoyHttpAls", "envoyOtelAls", "envoyTcpAls",
        "lightstep", "opencensus", "opentelemetry", "prometheus", "sds", "skywalking",
        "stackdriver", "zipkin",
    )
)  # fmt: skip
_COMMON_KEYS = (
    "service", "port", "timeout", "failOpen", "clearRouteCache", "statusOnError",
    "includeRequestBodyInCheck",
)  # fmt: skip
_HTTP_KEYS = (
    *_COMMON_KEYS, "pathPrefix", "includeHeadersInCheck", "includeRequestHeadersInCheck",
    HEADER_MAP, "headersToUpstreamOnAllow", "headersToDownstreamOnDeny",
    "headersToDownstreamOnAllow",
)  # fmt: skip
_BODY_KEYS = ("maxRequestBytes", "allowPartialMessage", "packAsBytes")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?)(ns|us|µs|ms|s|m|h)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
# The statuses that Envoy's `type.v3.StatusCode` knows.
_STATUSES = frozenset(
    (*range(200, 209), 226, *range(300, 309), *range(400, 418), *range(421, 427), 428, 429, 431)
    + (*range(500, 509), 510, 511, 100)
) - {306}  # fmt: skip
_MAX_PORT = 65535
_MAX_UINT32 = 2**32 - 1


def is_foreign_provider(node: YamlMap) -> bool:
    """Whether a provider is of a kind that only Istio's file has: tracing, metrics, logs."""
    return not _FOREIGN_KINDS.isdisjoint(node.entries)


def read_providers(
    fields: Fields, *, is_istio: bool, unusable: list[Diagnostic] | None = None
) -> tuple[ExtensionProvider, ...]:
    """Return the external authorizers at `extensionProviders`, in order.

    In Istio's file other kinds of providers, and keys of the future, are left alone.
    Where a list is given as `unusable`, a provider that is wrong is left out, with
    every namesake, and what is wrong with it is added there as a warning.
    """
    found: list[ExtensionProvider] = []
    names: set[str] = set()
    for index, node in enumerate(fields.items("extensionProviders")):
        path = f"extensionProviders[{index}]"
        findings = fields.findings if unusable is None else Findings()
        provider = _read_item(node, path, findings, is_istio=is_istio)
        if provider is not None and provider.name in names:
            message = f"provider `{shown(provider.name)}` is defined twice"
            findings.error("bad-provider", message, node.location, "rename one", path=path)
            found = [each for each in found if each.name != provider.name]
        elif provider is not None and (unusable is None or not findings.has_errors):
            found.append(provider)
        names |= {provider.name} if provider is not None else set()
        if unusable is not None:
            unusable += [replace(each, severity=Severity.WARNING) for each in findings.diagnostics]
    return tuple(found)


def _read_item(
    node: YamlNode, path: str, findings: Findings, *, is_istio: bool
) -> ExtensionProvider | None:
    if not isinstance(node, YamlMap):
        message = f"`{path}` must be a mapping, not {kind_of(node)}"
        findings.error("wrong-type", message, node.location, path=path)
        return None
    item = Fields(node, path, findings, None if is_istio else ("name", *_KINDS))
    return _of_one_kind(item, is_istio=is_istio)


def _of_one_kind(item: Fields, *, is_istio: bool) -> ExtensionProvider | None:
    """Return the provider, or None when it is not ours to read or not right."""
    written = [kind for kind in _KINDS if item.has(kind)]
    if is_istio and not written:
        return None
    if len(written) == 1:
        return _read_provider(item, written[0], is_istio=is_istio)
    item.error(
        "bad-provider", f"`{item.path}` must be of one kind, not {len(written)}", "",
        f"write one of {', '.join(_KINDS)}",
    )  # fmt: skip
    return None


def _read_provider(item: Fields, kind: ProviderKind, *, is_istio: bool) -> ExtensionProvider:
    name = item.text("name")
    if not _NAME.fullmatch(name):
        item.error(
            "bad-provider", f"`{shown(name)}` is not a provider name", "name",
            "1 to 63 lower-case letters, digits and `-`, a letter or digit first and last",
        )  # fmt: skip
    known = _HTTP_KEYS if kind == "envoyExtAuthzHttp" else _COMMON_KEYS
    body = item.child(kind, None if is_istio else known)
    if body is None:
        return ExtensionProvider(name=name, kind=kind)
    return ExtensionProvider(
        name=name,
        kind=kind,
        service=_service(body, is_needed=kind != "rego"),
        port=_port(body, is_needed=kind != "rego"),
        timeout_seconds=_timeout(body),
        fail_open=body.boolean("failOpen"),
        clear_route_cache=body.boolean("clearRouteCache"),
        status_on_error=_status(body),
        include_request_body=_request_body(body, is_istio=is_istio),
        **(_http_fields(body) if kind == "envoyExtAuthzHttp" else {}),
    )


def _http_fields(body: Fields) -> dict[str, Any]:
    prefix = body.text("pathPrefix")
    if prefix and not prefix.startswith("/"):
        body.error("bad-provider", f"`{body.at('pathPrefix')}` must begin with `/`", "pathPrefix")
    headers = body.text_map(HEADER_MAP)
    # `includeHeadersInCheck` is the older name, read where the newer one is not written.
    included = _headers(body, "includeRequestHeadersInCheck")
    return {
        "path_prefix": prefix,
        "include_request_headers_in_check": included or _headers(body, "includeHeadersInCheck"),
        "include_additional_headers_in_check": tuple(sorted(headers.items())),
        "headers_to_upstream_on_allow": _headers(body, "headersToUpstreamOnAllow"),
        "headers_to_downstream_on_deny": _headers(body, "headersToDownstreamOnDeny"),
        "headers_to_downstream_on_allow": _headers(body, "headersToDownstreamOnAllow"),
    }


def _headers(body: Fields, key: str) -> tuple[str, ...]:
    """Return header names; `*` may begin or end one but is not one."""
    names = body.texts(key)
    if "*" in names:
        body.error(
            "bad-provider",
            f"`{body.at(key)}` holds a lone `*`",
            key,
            "name the headers, or a prefix",
        )
    return names


def _service(body: Fields, *, is_needed: bool) -> str:
    service = body.text("service")
    if is_needed and not service:
        body.error(
            "bad-provider", f"`{body.at('service')}` is missing", "service",
            "write `<host>` or `<namespace>/<host>`",
        )  # fmt: skip
    return service


def _port(body: Fields, *, is_needed: bool) -> int:
    if not is_needed and not body.has("port"):
        return 0
    port = read_number(body, "port", most=_MAX_PORT)
    if port == 0:
        body.error("bad-provider", f"`{body.at('port')}` must be from 1 to {_MAX_PORT}", "port")
    return port


def _status(body: Fields) -> str:
    status = body.text("statusOnError")
    if status and not is_known_status(status):
        body.error(
            "bad-provider", f"`{shown(status)}` is not an HTTP status that Envoy knows",
            "statusOnError", 'write a number like `"403"`',
        )  # fmt: skip
    return status


def is_known_status(text: str) -> bool:
    """Whether a text is the number of a status in Envoy's `type.v3.StatusCode`."""
    return len(text) == 3 and text.isascii() and text.isdigit() and int(text) in _STATUSES


def _timeout(body: Fields) -> float | None:
    text = body.text("timeout")
    seconds = parse_duration(text) if text else None
    if text and seconds is None:
        body.error(
            "bad-duration", f"`{shown(text)}` is not a duration above 0", "timeout",
            "write it like `5s` or `250ms`",
        )  # fmt: skip
    return seconds


def parse_duration(text: str) -> float | None:
    """Return seconds above 0, or None: Istio writes `2s` or `0.002s`, people also `1m30s`.

    >>> parse_duration("1m30s"), parse_duration("0s")
    (90.0, None)
    """
    if _DURATION.sub("", text):
        return None
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION.findall(text))
    return seconds if seconds > 0 else None


def _request_body(body: Fields, *, is_istio: bool) -> Mapping[str, Any] | None:
    """Return what is written of `includeRequestBodyInCheck`, under MeshConfig's own keys."""
    given = body.child("includeRequestBodyInCheck", None if is_istio else _BODY_KEYS)
    if given is None:
        return None
    found: dict[str, Any] = {key: given.boolean(key) for key in _BODY_KEYS[1:] if given.has(key)}
    if given.has("maxRequestBytes"):
        found["maxRequestBytes"] = read_number(given, "maxRequestBytes", most=_MAX_UINT32)
    return {key: found[key] for key in _BODY_KEYS if key in found}


def read_number(fields: Fields, key: str, *, most: int) -> int:
    """Return the whole number (0 to `most`) at `key`, also quoted, as protobuf allows."""
    node: YamlNode | None = fields.node.entries.get(key)
    value = node.value if isinstance(node, YamlScalar) else None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:12])
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    if node is None:
        return 0
    fields.wrong_type(key, f"a whole number from 0 to {most}")
    return 0
