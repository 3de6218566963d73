"""Check, bytes to bytes: answers, records, and what happens when a part fails."""

from __future__ import annotations

import uuid
from uuid import RFC_4122

import pytest
from checking import (
    CUSTOM,
    WEB,
    FixedProvider,
    MemoryRecorder,
    ask,
    make_authorizer,
    make_message,
)
from google.protobuf.json_format import MessageToDict

from authz.pipeline import new_id
from policies.decision import (
    Effect,
    Mutations,
    Provider,
    ProviderError,
    ProviderVerdict,
)


def test_ids_are_random_uuids() -> None:
    """An id is a UUID of version 4 in hex, and another one each time."""
    ids = {new_id() for _ in range(200)}
    assert len(ids) == 200
    assert {(4, RFC_4122) for _ in ids} == {
        (uuid.UUID(each).version, uuid.UUID(each).variant) for each in ids
    }
    assert all(uuid.UUID(each).hex == each for each in ids)


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


@pytest.mark.failure("defect-inside")
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
