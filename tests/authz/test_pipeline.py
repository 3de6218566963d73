"""Check, bytes to bytes: answers, records, and what happens when a part fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import yaml
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from audit.errors import AuditUnavailable
from audit.record import AuditRecord
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.serving_state import ServingState
from authz.walk import Surroundings
from identity.jwks import JwkSet
from identity.jwt_rule import JwtRule
from policies.decision import (
    Effect,
    Mutations,
    Provider,
    ProviderError,
    ProviderVerdict,
)
from policies.mesh import Mesh
from policies.request import Request, Workload
from policies.snapshot import build_snapshot

WEB = "spiffe://cluster.local/ns/shop/sa/web"


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

    def evaluate(self, request: Request) -> ProviderVerdict:
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
    state = ServingState(snapshot=snapshot, providers=providers or {}, revision="r1")
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


def test_allow() -> None:
    """An allowed request carries who was verified, overwriting; the id is on answer and record."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer([{"rules": [{}]}], recorder)

    answer = ask(authorizer, make_message(x_meshwarden_peer="forged"))

    assert answer.HasField("status")
    assert 0 == answer.status.code
    header = answer.ok_response.headers[0]
    assert ("x-meshwarden-peer", WEB) == (header.header.key, header.header.value)
    assert (2, False) == (header.append_action, header.append.value)
    assert ["x-meshwarden-subject"] == list(answer.ok_response.headers_to_remove)
    added = answer.ok_response.response_headers_to_add[0].header
    assert ("x-meshwarden-decision-id", "0" * 32) == (added.key, added.value)
    metadata = MessageToDict(answer.dynamic_metadata)
    assert metadata["policy"] == "shop/p0#0"
    assert metadata["rule_place"].startswith("p.yaml:")
    assert ["allow"] == [record.decision.effect for record in recorder.records]
    assert ["r1"] == [record.revision for record in recorder.records]


def test_allow_without_peer_removes_the_header() -> None:
    """Without a peer, what the client wrote into the identity header does not go upstream."""
    answer = ask(make_authorizer(), make_message(peer="", x_meshwarden_peer="forged"))

    assert 0 == answer.status.code
    assert {"x-meshwarden-peer", "x-meshwarden-subject"} == set(
        answer.ok_response.headers_to_remove
    )


def test_deny_wins_over_allow() -> None:
    """A DENY rule denies whatever ALLOW says, with Istio's status and body."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer(
        [
            {"rules": [{}]},
            {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/x"]}}]}]},
        ],
        recorder,
    )

    answer = ask(authorizer, make_message(path="/x?y"))

    assert 7 == answer.status.code
    assert (403, "RBAC: access denied") == (
        answer.denied_response.status.code,
        answer.denied_response.body,
    )
    assert "shop/p1" == recorder.records[0].decision.policy
    assert "deny_rule_matched" == recorder.records[0].decision.reason


def test_near_miss() -> None:
    """A denial for want of an ALLOW says which rule came closest, and what it lacked."""
    recorder = MemoryRecorder()
    rule = {
        "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}],
        "to": [{"operation": {"methods": ["POST"]}}],
    }
    other = {
        "from": [{"source": {"namespaces": ["x"]}}],
        "to": [{"operation": {"paths": ["/y"]}}],
    }
    authorizer = make_authorizer([{"rules": [other, rule]}], recorder)

    ask(authorizer, make_message())

    assert "shop/p0#1" in recorder.records[0].decision.near_miss
    assert recorder.records[0].decision.near_miss.endswith("would have matched but for `methods`")


def test_strict_needs_a_peer() -> None:
    """Under STRICT a request without client certificate is denied before any rule is asked."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer(
        [{"kind": "PeerAuthentication", "mtls": {"mode": "STRICT"}}], recorder
    )

    assert 7 == ask(authorizer, make_message(peer="")).status.code
    assert 0 == ask(authorizer, make_message()).status.code
    assert "peer_required" == recorder.records[0].decision.reason


def test_unknown_workload() -> None:
    """When nothing names the workload, no policy can be chosen, and the request is denied."""
    recorder = MemoryRecorder()

    answer = ask(make_authorizer(recorder=recorder, static_workload=None), make_message())

    assert 7 == answer.status.code
    assert "workload_unknown" == recorder.records[0].decision.reason


def test_workload_from_the_listener_certificate() -> None:
    """The certificate of Envoy's listener names the workload; the route's extension wins."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer([{}], recorder, static_workload=None)
    message = make_message()
    message.attributes.destination.principal = "spiffe://cluster.local/ns/jobs/sa/x"
    elsewhere = ask(authorizer, message)
    message.attributes.context_extensions["meshwarden.namespace"] = "shop"
    here = ask(authorizer, message)

    assert (0, 7) == (elsewhere.status.code, here.status.code)
    assert ["jobs", "shop"] == [
        record.destination.namespace for record in recorder.records if record.destination
    ]


def test_bad_token_is_401() -> None:
    """A token that cannot be verified, here for want of keys, is refused as Envoy refuses it."""
    recorder = MemoryRecorder()
    authorizer = make_authorizer(
        [{"kind": "RequestAuthentication", "jwtRules": [{"issuer": "i", "jwksUri": "http://k/"}]}],
        recorder,
    )

    answer = ask(authorizer, make_message(authorization="Bearer a.b.c"))

    assert 16 == answer.status.code
    assert 401 == answer.denied_response.status.code
    names = [option.header.key for option in answer.denied_response.headers]
    assert ["www-authenticate", "x-meshwarden-decision-id"] == names
    assert "shop/p0" == recorder.records[0].decision.policy
    assert recorder.records[0].decision.place.startswith("p.yaml:")


CUSTOM = {"action": "CUSTOM", "provider": {"name": "rego"}, "rules": [{}]}


def test_custom_allow_goes_on_to_deny_and_allow() -> None:
    """A provider that allows adds its headers, but cannot speak for identity nor over a DENY."""
    verdict = ProviderVerdict(
        effect=Effect.ALLOW,
        mutations=Mutations(
            set_request_headers=(("x-approver", "a"), ("x-meshwarden-peer", "forged")),
            remove_request_headers=("x-old", "x-meshwarden-peer"),
        ),
    )
    providers: dict[str, Provider] = {"rego": FixedProvider(verdict)}

    allowed = ask(make_authorizer([CUSTOM], providers=providers), make_message())
    denied = ask(
        make_authorizer([CUSTOM, {"action": "DENY", "rules": [{}]}], providers=providers),
        make_message(),
    )

    headers = [(each.header.key, each.header.value) for each in allowed.ok_response.headers]
    assert [("x-approver", "a"), ("x-meshwarden-peer", WEB)] == headers
    assert "x-meshwarden-peer" not in allowed.ok_response.headers_to_remove
    assert (0, 7) == (allowed.status.code, denied.status.code)


def test_custom_denies_first() -> None:
    """A provider's denial is the answer, with its own status, body and headers."""
    verdict = ProviderVerdict(
        effect=Effect.DENY,
        http_status=451,
        body="no",
        mutations=Mutations(set_response_headers=(("x-why", "law"),)),
    )

    answer = ask(
        make_authorizer([CUSTOM], providers={"rego": FixedProvider(verdict)}), make_message()
    )

    assert (7, 451, "no") == (
        answer.status.code,
        answer.denied_response.status.code,
        answer.denied_response.body,
    )
    assert "x-why" == answer.denied_response.headers[0].header.key


@pytest.mark.parametrize(
    ("providers", "reason"),
    [
        ({}, "provider_unknown"),
        ({"rego": FixedProvider(ProviderError("undefined"))}, "provider_error"),
        ({"rego": FixedProvider(ZeroDivisionError())}, "internal_error"),
    ],
)
def test_failing_provider_denies(providers: dict[str, Provider], reason: str) -> None:
    """Whatever keeps a provider from answering, the request is denied and the record says why."""
    recorder = MemoryRecorder()

    answer = ask(make_authorizer([CUSTOM], recorder, providers), make_message())

    assert answer.status.code != 0
    assert [reason] == [record.decision.reason for record in recorder.records]
    assert "undefined" not in answer.denied_response.body


def test_internal_error_is_marked_for_envoy() -> None:
    """A defect of ours answers with `error_response`, so that Envoy counts it as an error."""
    broken: dict[str, Provider] = {"rego": FixedProvider(RuntimeError("x"))}

    answer = ask(make_authorizer([CUSTOM], providers=broken), make_message())

    assert 13 == answer.status.code
    assert answer.HasField("error_response")


def test_no_record_no_entry() -> None:
    """A decision whose record is not accepted is a denial, and not one that Envoy may overrule."""
    recorder = MemoryRecorder()
    recorder.full = True

    answer = ask(make_authorizer([{"rules": [{}]}], recorder), make_message())

    assert 7 == answer.status.code
    assert (True, 503) == (answer.HasField("denied_response"), answer.denied_response.status.code)


def test_dry_run_is_told_and_does_nothing() -> None:
    """A dry-run DENY that matches changes nothing and is in metadata, record and metrics."""
    recorder = MemoryRecorder()
    dry = {"annotations": {"istio.io/dry-run": "true"}, "action": "DENY", "rules": [{}]}
    authorizer = make_authorizer([{"rules": [{}]}, dry], recorder)

    answer = ask(authorizer, make_message())

    assert 0 == answer.status.code
    assert {"shop/p1": "would_deny"} == MessageToDict(answer.dynamic_metadata)["shadow"]
    assert ["would_deny"] == [shadow.outcome for shadow in recorder.records[0].shadow]
    assert b'meshwarden_shadow_total{outcome="would_deny",policy="shop/p1"} 1.0' in (
        authorizer.metrics.text()
    )


def nested(depth: int) -> dict[str, Any]:
    """Return an object of objects."""
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


@pytest.mark.parametrize(
    "mutations",
    [
        Mutations(set_request_headers=(("x", "\ud800"),)),
        Mutations(dynamic_metadata=nested(60)),
        Mutations(dynamic_metadata=nested(5000)),
        Mutations(dynamic_metadata={"a": 10**400}),
        Mutations(dynamic_metadata={"a": object()}),
    ],
    ids=["surrogate", "deeper than Envoy reads", "very deep", "huge number", "no JSON"],
)
def test_provider_values_that_no_message_holds(mutations: Mutations) -> None:
    """What no message can hold becomes a denial, and the record tells that denial."""
    recorder = MemoryRecorder()
    verdict = ProviderVerdict(effect=Effect.ALLOW, mutations=mutations)
    providers: dict[str, Provider] = {"rego": FixedProvider(verdict)}

    answer = ask(make_authorizer([CUSTOM], recorder, providers), make_message())

    assert 13 == answer.status.code
    assert [("deny", "internal_error")] == [
        (record.decision.effect, record.decision.reason) for record in recorder.records
    ]


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_metadata_that_is_no_json(number: float) -> None:
    """A number in Envoy's metadata that is none is a denial with a record, not a broken call."""
    recorder = MemoryRecorder()
    message = make_message()
    metadata = message.attributes.metadata_context.filter_metadata
    metadata["envoy.filters.http.lua"].fields["a"].number_value = number

    answer = ask(make_authorizer(recorder=recorder), message)

    assert 400 == answer.denied_response.status.code
    assert ["request_malformed"] == [record.decision.reason for record in recorder.records]


@pytest.mark.parametrize("message", [b"\xff\xff\xff", b"", CheckRequest().SerializeToString()])
def test_not_a_question(message: bytes) -> None:
    """Bytes that ask nothing are denied and recorded."""
    recorder = MemoryRecorder()

    answer = ask(make_authorizer(recorder=recorder), message)

    assert 400 == answer.denied_response.status.code
    assert ["request_malformed"] == [record.decision.reason for record in recorder.records]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes(message: bytes) -> None:
    """Whatever comes in, a status goes out, and no bytes of chance are let in."""
    recorder = MemoryRecorder()
    answer = ask(make_authorizer([{}], recorder), message)

    assert answer.HasField("status")
    assert answer.status.code != 0
    assert 1 == len(recorder.records)
