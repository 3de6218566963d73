"""Prepared answers: byte for byte what the encoder makes, or not given at all."""

from __future__ import annotations

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from hypothesis import given
from hypothesis import strategies as st

from authz.check_response import encode_check_response
from authz.prepared_answer import decision_metadata, prepared_answer, with_id
from policies.decision import Decision, Effect, FailedOpen, Layer, Mutations, Reason, RuleRef

_NAMES = st.text(alphabet="abcxyz-_", min_size=1, max_size=8)
_TEXTS = st.text(max_size=20)
_PAIRS = st.lists(st.tuples(_NAMES, _TEXTS), max_size=3).map(tuple)
_RULES = st.none() | st.builds(
    RuleRef,
    namespace=_NAMES,
    policy=_NAMES,
    rule=st.none() | st.integers(0, 9),
    file=st.just("p.yaml"),
    line=st.integers(0, 99),
)
_DECISIONS = st.builds(
    Decision,
    effect=st.sampled_from(Effect),
    reason=st.sampled_from(Reason),
    layer=st.sampled_from(Layer),
    rule=_RULES,
    http_status=st.sampled_from([200, 401, 403, 503]),
    body=_TEXTS,
    mutations=st.builds(
        Mutations,
        set_request_headers=_PAIRS,
        remove_request_headers=st.lists(_NAMES, max_size=2).map(tuple),
        set_response_headers=_PAIRS,
        remove_query_parameters=st.lists(_NAMES, max_size=2).map(tuple),
    ),
)
_IDS = st.text(alphabet="0123456789abcdef", min_size=32, max_size=32)


@given(_DECISIONS, st.sampled_from(["", "x-id", "abc"]), _IDS, st.booleans())
def test_a_prepared_answer_is_the_encoders(
    decision: Decision, header: str, decision_id: str, is_http: bool
) -> None:
    """Whatever the decision, its prepared answer says what the encoder's says."""
    prepared = prepared_answer(decision, header, decision_id, is_http=is_http)
    encoded = encode_check_response(
        decision,
        decision_metadata(decision, decision_id),
        response_headers=with_id(decision.mutations, header, decision_id),
        is_http=is_http,
    )

    assert prepared is not None
    assert CheckResponse.FromString(encoded) == CheckResponse.FromString(prepared)


_PLAIN = Decision(effect=Effect.ALLOW, reason=Reason.ALLOW_RULE_MATCHED, layer=Layer.ALLOW)


@pytest.mark.parametrize(
    ("changes", "decision_id"),
    [
        ({}, "short"),
        ({"mutations": Mutations(dynamic_metadata={"a": 1})}, "0" * 32),
        ({"mutations": Mutations(append_request_headers=(("a", "b"),))}, "0" * 32),
        ({"mutations": Mutations(set_query_parameters=(("a", "b"),))}, "0" * 32),
        ({"mutations": Mutations(set_request_headers=(("a", "b" * 3000),))}, "0" * 32),
        ({"body": "b" * 3000}, "0" * 32),
        (
            {
                "failed_open": (
                    FailedOpen(provider="p", reason=Reason.PROVIDER_ERROR, error="gone"),
                )
            },
            "0" * 32,
        ),
    ],
    ids=["id", "metadata", "append", "query", "long header", "long body", "failed open"],
)
def test_what_is_seldom_or_large_is_not_kept(changes: dict[str, object], decision_id: str) -> None:
    """Answers that a provider shaped, and those with long texts, are made for themselves."""
    fields = {"effect": _PLAIN.effect, "reason": _PLAIN.reason, "layer": _PLAIN.layer}

    decision = Decision(**{**fields, **changes})  # type: ignore[arg-type]  # the table's fields

    assert prepared_answer(decision, "x-id", decision_id, is_http=True) is None
