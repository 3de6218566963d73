"""Parts of a check for tests: recorders, providers, policies and messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from audit.errors import AuditUnavailable
from audit.record import AuditRecord
from authz.custom import CustomTerms
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from policies.decision import (
    Provider,
    ProviderVerdict,
)
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import build_snapshot

WEB = "spiffe://cluster.local/ns/shop/sa/web"
CUSTOM = {"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]}


class NoKeys:
    """An issuer whose keys could not be had."""

    def keys_for(self, rule: JwtRule) -> JwkSet | None:
        """Return nothing."""
        return None


class MemoryRecorder:
    """Keeps records, or refuses them."""

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.full = False

    def offer(self, record: AuditRecord) -> None:
        """Accept a record unless full."""
        if self.full:
            raise AuditUnavailable("the queue is full")
        self.records.append(record)


class FixedProvider:
    """A provider that answers, or fails, as it is told."""

    def __init__(self, answer: ProviderVerdict | Exception) -> None:
        self.answer = answer
        self.asked = 0

    def evaluate(self, request: Request, *_asking: object) -> ProviderVerdict:
        """Return or raise the answer."""
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def make_authorizer(
    specs: Sequence[dict[str, Any]] = (),
    recorder: MemoryRecorder | None = None,
    providers: dict[str, Provider] | None = None,
    kind: str = "AuthorizationPolicy",
    terms: CustomTerms | None = None,
    **around: Any,
) -> Authorizer:
    """Return an authorizer for policies p0, p1, ... in namespace shop."""
    documents = [
        {
            "apiVersion": "security.istio.io/v1",
            "kind": spec.pop("kind", kind),
            "metadata": {
                "name": f"p{index}",
                "namespace": "shop",
                "annotations": spec.pop("annotations", {}),
            },
            "spec": spec,
        }
        for index, spec in enumerate(dict(spec) for spec in specs)
    ]
    snapshot = build_snapshot([("p.yaml", yaml.safe_dump_all(documents))], Mesh())
    state = ServingState(
        snapshot=snapshot,
        providers=providers or {},
        revision="r1",
        terms=terms or CustomTerms(),
    )
    return Authorizer(
        state=lambda: state,
        around=Surroundings(
            keys=NoKeys(), **{"static_workload": Workload(namespace="shop"), **around}
        ),
        recorder=recorder or MemoryRecorder(),
        metrics=Metrics(),
        new_id=lambda: "0" * 32,
    )


def make_message(
    peer: str = WEB, method: str = "GET", path: str = "/", **headers: str
) -> CheckRequest:
    """Return a CheckRequest as Envoy sends it."""
    message = CheckRequest()
    message.attributes.source.principal = peer
    http = message.attributes.request.http
    http.method, http.path, http.host = method, path, "orders.shop"
    for name, value in headers.items():
        http.header_map.headers.add(key=name.replace("_", "-"), raw_value=value.encode())
    return message


def ask(authorizer: Authorizer, message: CheckRequest | bytes) -> CheckResponse:
    """Return the decoded answer."""
    raw = message if isinstance(message, bytes) else message.SerializeToString()
    return CheckResponse.FromString(authorizer.check(raw))
