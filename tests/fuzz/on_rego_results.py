"""Rego results: only `true`, or an object whose `allowed` is `true`, becomes an allow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from authz.check_response import encode_check_response
from opa_bridge.compatibility import Compatibility
from opa_bridge.errors import ResultError
from opa_bridge.result import has_decided, read_verdict, unknown_keys
from policies.decision import Decision, Effect, Layer, Reason
from tests.fuzz.choices import Choices
from tests.fuzz.target import Target

_KEYS = (
    *("allowed", "headers", "response_headers_to_add", "request_headers_to_remove", "body"),
    *("query_parameters_to_set", "query_parameters_to_remove", "http_status", "Allowed"),
    *("dynamic_metadata", "allow", "x", ""),
)
_SCALARS: tuple[Any, ...] = (
    *(True, False, None, 0, 1, 200, 401, 401.0, 99, 2**63, 1e308, "", "true", "x", "a\r\nb: c"),
    *(":path", "host", "\u0000", "\ud800", "X-A", -1, 503),
)


def _run(data: bytes) -> None:
    choices = Choices(data)
    if choices.is_yes():
        try:
            result = json.loads(choices.rest())
        except (ValueError, RecursionError):
            return
    else:
        result = _value(choices, 3)
    compatibility = Compatibility(rewrite_target=choices.is_yes())
    unknown_keys(result)
    try:
        verdict = read_verdict(result, compatibility)
    except ResultError:
        return
    is_yes = result is True or (isinstance(result, Mapping) and result.get("allowed") is True)
    assert (verdict.effect is Effect.ALLOW) == is_yes
    assert isinstance(result, bool) or has_decided(result)
    _must_be_told(verdict.effect, verdict.mutations, verdict.http_status)


def _must_be_told(effect: Effect, mutations: Any, http_status: int) -> None:
    """Raise unless the answer that Envoy gets says the same; what no message holds may raise."""
    decision = Decision(
        effect=effect,
        reason=Reason.NO_ALLOW_POLICY,
        layer=Layer.CUSTOM,
        detail="",
        http_status=http_status or 403,
        mutations=mutations,
    )
    try:
        raw = encode_check_response(decision, mutations.dynamic_metadata, is_http=True)
    except Exception as error:  # the pipeline turns each of them into a denial
        assert not isinstance(error, AssertionError)
        return
    answer = CheckResponse.FromString(raw)
    assert (answer.status.code == 0) == (effect is Effect.ALLOW)
    for option in answer.ok_response.headers:
        assert "\r" not in option.header.value + option.header.key
        assert "\n" not in option.header.value + option.header.key


def _value(choices: Choices, depth: int) -> Any:
    kind = choices.number(4) if depth else 0
    if kind == 1:
        return [_value(choices, depth - 1) for _ in range(choices.number(4))]
    if kind in (2, 3):
        count = choices.number(6)
        return {choices.pick(_KEYS): _value(choices, depth - 1) for _ in range(count)}
    return choices.pick(_SCALARS)


def _seeds() -> list[bytes]:
    results: list[object] = [
        True,
        {"allowed": True, "headers": {"x": "y"}, "response_headers_to_add": [{"a": "b"}]},
        {"allowed": False, "http_status": 401, "body": "no", "headers": {"x": ["1", "2"]}},
        {"allowed": True, "dynamic_metadata": {"a": [1, {"b": None}]}},
        {"allowed": "true"},
        [],
    ]
    chosen = [b"\x00\x02\x03\x00\x00\x00\x01\x02", b"\x00\x03\x05" + bytes(range(40)), b"\x00"]
    return [*(b"\x01" + json.dumps(each).encode() for each in results), *chosen]


TARGET = Target(run=_run, seeds=_seeds, words=tuple(f'"{key}"' for key in _KEYS), share=2.0)
