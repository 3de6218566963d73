"""Checks that are meant to go wrong: odd bytes, odd values, forged names."""

from __future__ import annotations

from typing import Any

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
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.decision import (
    Effect,
    Mutations,
    Provider,
    ProviderVerdict,
)


def test_look_alikes_of_identity_headers_are_removed() -> None:
    """A client cannot speak for identity with `_` in place of `-`: CGI would read both as one."""
    message = make_message()
    http = message.attributes.request.http
    for name in ("x_meshwarden_peer", "X-meshwarden_Subject", "x_other"):
        http.header_map.headers.add(key=name, raw_value=b"forged")

    removed = set(ask(make_authorizer(), message).ok_response.headers_to_remove)

    assert {"x_meshwarden_peer", "x-meshwarden_subject", "x-meshwarden-subject"} == removed


def test_an_identity_that_the_way_would_change_is_not_sent() -> None:
    """Spaces at the ends of a header value are lost on the way, and leave another identity."""
    answer = ask(make_authorizer(), make_message(peer="CN=admin "))

    assert "x-meshwarden-peer" in answer.ok_response.headers_to_remove
    assert [] == list(answer.ok_response.headers)


@pytest.mark.parametrize(
    ("peer", "has_session", "code"), [(WEB, False, 7), (WEB, True, 0), ("", False, 0)]
)
def test_deny_on_an_unseen_sni(peer: str, has_session: bool, code: int) -> None:
    """A DENY on the SNI denies a TLS connection whose session Envoy was not told to send."""
    deny = {
        "action": "DENY",
        "rules": [{"when": [{"key": "connection.sni", "values": ["bad.test"]}]}],
    }
    message = make_message(peer=peer)
    if has_session:
        message.attributes.tls_session.sni = "good.test"

    assert code == ask(make_authorizer([deny]), message).status.code


@pytest.mark.parametrize("way", ["set_request_headers", "append_request_headers"])
@pytest.mark.parametrize(("rule", "code"), [({"values": ["admin"]}, 7), ({"notValues": ["x"]}, 0)])
def test_no_provider_writes_what_the_verification_owns(
    rule: dict[str, Any], code: int, way: str
) -> None:
    """A provider that repeats a client's header does not speak for a token, here as in Istio."""
    owned = {"issuer": "i", "jwks": '{"keys": []}'} | {
        "outputClaimToHeaders": [{"header": "x-user", "claim": "sub"}]
    }
    policies: list[dict[str, Any]] = [
        {"kind": "RequestAuthentication", "jwtRules": [owned]},
        CUSTOM,
        {"rules": [{"when": [{"key": "request.headers[x-user]", **rule}]}]},
    ]
    echoed: dict[str, Any] = {way: (("x-user", "admin"),)}
    echo = Mutations(**echoed)
    verdict = ProviderVerdict(effect=Effect.ALLOW, mutations=echo)
    providers: dict[str, Provider] = {"rego": FixedProvider(verdict)}

    answer = ask(make_authorizer(policies, providers=providers), make_message(x_user="admin"))

    assert code == answer.status.code
    if code == 0:
        written = {option.header.key for option in answer.ok_response.headers}
        assert "x-user" not in written
        assert "x-user" in answer.ok_response.headers_to_remove


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


@pytest.mark.failure("message-malformed")
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
