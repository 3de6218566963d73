"""Answers that differ in nothing but the decision's id, serialized once.

Theory of operation. Of two answers by one rule to one caller only the id differs, and ids
are all of one length: so the bytes of the first, made with a stand-in that nobody else can
know, are kept, and the stand-in is overwritten. Answers that a provider shaped, or that
tell of shadows, are made one by one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from authz.check_response import encode_check_response
from policies.decision import Decision, Effect, Layer, Mutations, Reason, RuleRef

_ID_LENGTH: Final = 32
_STAND_IN: Final = secrets.token_hex(_ID_LENGTH // 2)
_STAND_IN_BYTES: Final = _STAND_IN.encode()
# BUDGET: answers kept, and the characters of the texts that one may hold.
_KEPT_MAX: Final = 4096
_TEXT_MAX: Final = 2048

_Headers = tuple[tuple[str, str], ...]


class _Shape(NamedTuple):
    """All that an answer tells besides its id."""

    effect: Effect
    reason: Reason
    rule: RuleRef | None
    http_status: int
    body: str
    set_request_headers: _Headers
    remove_request_headers: tuple[str, ...]
    set_response_headers: _Headers
    remove_query_parameters: tuple[str, ...]
    id_header: str
    is_http: bool


def prepared_answer(
    decision: Decision, id_header: str, decision_id: str, *, is_http: bool
) -> bytes | None:
    """Return the serialized answer with its id, or None where it must be made for itself."""
    mutations = decision.mutations
    if (
        len(decision_id) != _ID_LENGTH
        or decision.failed_open
        or mutations.dynamic_metadata
        or mutations.append_request_headers
        or mutations.set_query_parameters
        or _length(decision) > _TEXT_MAX
    ):
        return None
    shape = _Shape(
        decision.effect,
        decision.reason,
        decision.rule,
        decision.http_status,
        decision.body,
        mutations.set_request_headers,
        mutations.remove_request_headers,
        mutations.set_response_headers,
        mutations.remove_query_parameters,
        id_header,
        is_http,
    )
    answer = _answer(shape)
    return answer.replace(_STAND_IN_BYTES, decision_id.encode())


class AnswerMould:
    """An answer of which only the id is open."""

    __slots__ = ("_parts",)

    def __init__(self, encode: Callable[[str], bytes]) -> None:
        """Keep the answer that `encode` makes; it is given a stand-in for the id."""
        self._parts = encode(_STAND_IN).split(_STAND_IN_BYTES)

    def __len__(self) -> int:
        """Return how many bytes an answer has."""
        return sum(map(len, self._parts)) + _ID_LENGTH * (len(self._parts) - 1)

    def with_id(self, decision_id: str) -> bytes | None:
        """Return the serialized answer; None where the id is of another length."""
        # INVARIANT: lengths stand before what they measure, so that ids must be of one length.
        if len(decision_id) != _ID_LENGTH or not decision_id.isascii():
            return None
        return decision_id.encode().join(self._parts)


def decision_metadata(decision: Decision, decision_id: str) -> Mapping[str, Any]:
    """Return the dynamic metadata of a decision, without its shadows.

    They are for access logs and later filters, on allow and deny alike.
    """
    metadata: dict[str, Any] = dict(decision.mutations.dynamic_metadata)
    metadata.update(
        decision_id=decision_id, effect=str(decision.effect), reason=str(decision.reason)
    )
    if decision.rule is not None:
        metadata.update(policy=decision.rule.name, rule_place=decision.rule.place)
    if decision.failed_open:
        metadata["failed_open"] = [each.provider for each in decision.failed_open]
    return metadata


def with_id(mutations: Mutations, header: str, decision_id: str) -> _Headers:
    """Return the response headers with the decision's id among them."""
    if not header:
        return mutations.set_response_headers
    kept = tuple(pair for pair in mutations.set_response_headers if pair[0] != header)
    return (*kept, (header, decision_id))


def _length(decision: Decision) -> int:
    mutations = decision.mutations
    total = len(decision.body)
    for name, value in mutations.set_request_headers:
        total += len(name) + len(value)
    for name, value in mutations.set_response_headers:
        total += len(name) + len(value)
    for name in mutations.remove_request_headers:
        total += len(name)
    return total + sum(map(len, mutations.remove_query_parameters))


@lru_cache(maxsize=_KEPT_MAX)
def _answer(shape: _Shape) -> bytes:
    mutations = Mutations(
        set_request_headers=shape.set_request_headers,
        remove_request_headers=shape.remove_request_headers,
        set_response_headers=shape.set_response_headers,
        remove_query_parameters=shape.remove_query_parameters,
    )
    decision = Decision(
        effect=shape.effect,
        reason=shape.reason,
        layer=Layer.DEFAULT,  # no answer tells it
        rule=shape.rule,
        http_status=shape.http_status,
        body=shape.body,
        mutations=mutations,
    )
    return encode_check_response(
        decision,
        decision_metadata(decision, _STAND_IN),
        response_headers=with_id(mutations, shape.id_header, _STAND_IN),
        is_http=shape.is_http,
    )
