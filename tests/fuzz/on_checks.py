"""CheckRequest: whole checks, by raw bytes and by chosen fields, against what policies must say.

An allow must be one that a second, plain reading of the message also finds, in which
nothing of ours takes part. What fails inside is a denial too, and a breach here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from audit.record import AuditRecord
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from policies.mesh import Mesh
from policies.request import Workload
from policies.snapshot import build_snapshot
from tests.fuzz.choices import Choices
from tests.fuzz.target import Target

_WEB = "spiffe://cluster.local/ns/shop/sa/web"
_POLICIES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  rules:
  - from: [{source: {principals: [cluster.local/ns/shop/sa/web]}}]
    to: [{operation: {methods: [GET], paths: ["/api/*"]}}]
  - to: [{operation: {paths: [/open]}}]
    when: [{key: "request.headers[x-tier]", values: [gold]}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: never, namespace: shop}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: ["/api/secret*"]}}]
  - when: [{key: "request.headers[x-banned]", values: ["*"]}]
"""
_PRINCIPALS = (
    *(_WEB, "", "spiffe://cluster.local/ns/shop/sa/web2", "spiffe://cluster.local/ns/shop/sa/WEB"),
    *(f"{_WEB},{_WEB}", f" {_WEB}", "cluster.local/ns/shop/sa/web", "spiffe://x/ns/shop/sa/web"),
)
_PATHS = (
    *("/api/", "/open", "/api/secret", "/api/%73ecret", "/open?a=b", "/open#a", "/api", "/"),
    *("//api/", "/api/../api/x", "/API/", "/api/secret?x", "*", "", "/open/", "/open;a", "/api/\\"),
)
_METHODS = ("GET", "POST", "get", "", "GET ", "CONNECT", "TRACE")
_HEADERS = ("x-tier", "X-Tier", "x-banned", "x_tier", "authorization", "cookie", ":path")
_HEADERS_WITH_PEERS = (*_HEADERS, "x-forwarded-client-cert", "host")
_VALUES = ("gold", "gold,gold", " gold", "", "silver", "Bearer a.b.c", f"URI={_WEB}")


class _NoKeys:
    def keys_for(self, _rule: JwtRule) -> JwkSet | None:
        return None


@dataclass(slots=True)
class _Recorder:
    """Keeps what the one check at hand recorded."""

    records: list[AuditRecord] = field(default_factory=list)

    def offer(self, record: AuditRecord) -> None:
        self.records.append(record)


def make_check(recorder: _Recorder, policies: str) -> Callable[..., bytes]:
    """Return the check that answers by these policies."""
    snapshot = build_snapshot([("fuzz.yaml", policies)], Mesh())
    state = ServingState(snapshot=snapshot, providers={}, revision="fuzz")
    around = Surroundings(keys=_NoKeys(), static_workload=Workload(namespace="shop"))
    return Authorizer(
        state=lambda: state, around=around, recorder=recorder, metrics=Metrics()
    ).check


# WHY the log is off: a check that fails inside is found by its record, and each would print.
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
_recorder = _Recorder()
_check = make_check(_recorder, _POLICIES)


def _run(data: bytes) -> None:
    choices = Choices(data)
    message = choices.rest() if choices.is_yes() else _chosen(choices).SerializeToString()
    forwarded = (_VALUES[-1],) if data[:1] == b"\x07" else ()
    _recorder.records.clear()

    answer = CheckResponse.FromString(_check(message, forwarded))

    (record,) = _recorder.records
    is_allowed = answer.status.code == 0
    assert record.decision.effect == ("allow" if is_allowed else "deny")
    assert record.decision.reason != "internal_error", record.decision
    assert is_allowed == answer.HasField("ok_response")
    if is_allowed:
        _must_be_granted(CheckRequest.FromString(message))


def _chosen(choices: Choices) -> CheckRequest:
    message = CheckRequest()
    attributes = message.attributes
    attributes.source.principal = choices.pick(_PRINCIPALS)
    if choices.number(8) == 1:
        attributes.source.certificate = choices.take(60).decode("latin-1")
    if choices.number(8) == 2:
        attributes.destination.principal = choices.pick(_PRINCIPALS)
    http = attributes.request.http
    http.method = choices.pick(_METHODS)
    http.path = choices.pick(_PATHS) + choices.take(choices.number(12)).decode("latin-1")
    http.host = "orders.shop"
    for _ in range(choices.number(5)):
        name, value = choices.pick(_HEADERS_WITH_PEERS), choices.pick(_VALUES)
        if choices.is_yes():
            http.headers[name] = value
        else:
            http.header_map.headers.add(key=name, raw_value=value.encode() + choices.take(1))
    if choices.number(4) == 1:
        attributes.context_extensions[choices.text(12).encode("ascii", "replace").decode()] = "x"
    if choices.number(4) == 2:
        attributes.metadata_context.filter_metadata["a"].fields["b"].number_value = 1.5
    return message


def _must_be_granted(message: CheckRequest) -> None:
    """Raise unless a plain reading of the message finds the allow in the policies."""
    http = message.attributes.request.http
    path = http.path.partition("?")[0].partition("#")[0]
    headers = _plain_headers(message)
    assert not path.startswith("/api/secret"), "a DENY policy matched"
    assert not any(headers.get("x-banned", ())), "a DENY policy matched"
    by_peer = message.attributes.source.principal == _WEB
    granted = by_peer and http.method == "GET" and path.startswith("/api/")
    # Envoy tries a repeated header's values one by one, unless it was told to join them.
    granted = granted or (path == "/open" and "gold" in headers.get("x-tier", ()))
    assert granted, "no ALLOW policy matches"


def _plain_headers(message: CheckRequest) -> dict[str, list[str]]:
    http = message.attributes.request.http
    found: dict[str, list[str]] = {}
    if http.HasField("header_map"):
        for each in http.header_map.headers:
            value = each.raw_value.decode("utf-8", "surrogateescape") or each.value
            found.setdefault(each.key.lower(), []).append(value)
    else:
        for name, value in http.headers.items():
            found[name.lower()] = [value]
    return found


def _seeds() -> list[bytes]:
    granted = CheckRequest()
    granted.attributes.source.principal = _WEB
    granted.attributes.request.http.method = "GET"
    granted.attributes.request.http.path = "/api/x"
    connection = CheckRequest()
    connection.attributes.source.address.socket_address.address = "10.0.0.1"
    connection.attributes.destination.address.socket_address.port_value = 15_008
    raw = [each.SerializeToString() for each in (granted, connection, CheckRequest())]
    return [b"\x01" + each for each in raw] + [b"\x00", b"\x00" * 12, bytes(range(0, 80, 2))]


TARGET = Target(run=_run, seeds=_seeds, words=(_WEB, "x-tier", "gold", "x-banned"), share=2.0)
