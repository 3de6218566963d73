"""A Rego result as a verdict: every key of opa-envoy-plugin's contract, checked for shape.

Spec: opa-envoy-plugin, decision. `headers` goes upstream when allowed and to the client
when denied; keys of the other side are not looked at, keys nobody knows are reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from opa_bridge.builtin_table import words
from opa_bridge.compatibility import Compatibility
from opa_bridge.errors import ResultError
from policies.decision import Effect, Mutations, ProviderVerdict

KNOWN_KEYS = words(
    """
    allowed headers response_headers_to_add request_headers_to_remove query_parameters_to_set
    query_parameters_to_remove body http_status dynamic_metadata
    """
)
_DEFAULT_STATUS = 403
# Known to Go's net/http and to Envoy's enum, without 100: a denial is a final answer.
_STATUSES = frozenset(
    [*range(200, 209), 226, *range(300, 306), 307, 308, *range(400, 418), *range(421, 425)]
    + [426, 428, 429, 431, *range(500, 509), 510, 511]
)
# RFC 9110 §5.6.2 token, §5.5 field value without controls.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

_TARGET_HEADERS = frozenset({":method", ":path", ":authority", "host"})
_SAFE = Compatibility()

Pairs = tuple[tuple[str, str], ...]


def read_verdict(result: Any, compatibility: Compatibility = _SAFE) -> ProviderVerdict:
    """Return the verdict that a result spells.

    Raises:
        ResultError: the result is neither a boolean nor a well-formed object.
    """
    if isinstance(result, bool):
        return ProviderVerdict(effect=Effect.ALLOW if result else Effect.DENY)
    if not isinstance(result, Mapping):
        raise ResultError(f"expected a boolean or an object, got {_kind(result)}")
    # `allowed` is mandatory: a missing boolean is an error, never false and never true.
    if not isinstance(result.get("allowed"), bool):
        raise ResultError(f"`allowed` must be a boolean, got {_kind(result.get('allowed'))}")
    return _allowed(result, compatibility) if result["allowed"] else _denied(result)


def has_decided(result: Any) -> bool:
    """Return whether a result says yes or no, whatever the rest of it is worth."""
    return isinstance(result, Mapping) and isinstance(result.get("allowed"), bool)


def passed_in_dry_run(verdict: ProviderVerdict) -> ProviderVerdict:
    """Return the verdict of a policy that is only tried out: a denial passes, and is told.

    Spec: opa-envoy-plugin, `dry-run`: a denial becomes an empty OK, its metadata are sent;
    an allow keeps all its mutations. What is no verdict (an error, a bad request) stays one.
    """
    if verdict.effect is Effect.ALLOW:
        return verdict
    said = f": {verdict.detail}" if verdict.detail else ""
    return ProviderVerdict(
        effect=Effect.ALLOW,
        http_status=200,
        detail=f"in a dry run; it would deny with {verdict.http_status}{said}",
        mutations=Mutations(dynamic_metadata=verdict.mutations.dynamic_metadata),
    )


def unknown_keys(result: Any) -> tuple[str, ...]:
    """Return the keys of a result that mean nothing, sorted: probably misspelt ones."""
    return tuple(sorted(set(result) - KNOWN_KEYS)) if isinstance(result, Mapping) else ()


def _allowed(result: Mapping[str, Any], compatibility: Compatibility) -> ProviderVerdict:
    metadata = _metadata(result)
    lines = _headers(result, "headers", is_target_open=compatibility.rewrite_target)
    # What says where the request goes has one value, so it is never added to another.
    added = tuple(
        line for line in lines if compatibility.append_headers and line[0] not in _TARGET_HEADERS
    )
    headers: dict[str, list[str]] = {}
    for name, value in lines:
        if (name, value) not in added:
            headers.setdefault(name, []).append(value)
    removed = tuple(_header_name(name) for name in _texts(result, "request_headers_to_remove"))
    return ProviderVerdict(
        effect=Effect.ALLOW,
        http_status=200,
        detail=_detail(metadata, ""),
        mutations=Mutations(
            # Each entry overwrites, so several values of one name go as one line.
            set_request_headers=tuple((name, ",".join(found)) for name, found in headers.items()),
            append_request_headers=added,
            remove_request_headers=removed,
            set_response_headers=_headers(result, "response_headers_to_add"),
            set_query_parameters=_pairs(result, "query_parameters_to_set"),
            remove_query_parameters=_texts(result, "query_parameters_to_remove"),
            dynamic_metadata=metadata,
        ),
    )


def _denied(result: Mapping[str, Any]) -> ProviderVerdict:
    metadata = _metadata(result)
    body = result.get("body", "")
    if not isinstance(body, str):
        raise ResultError(f"`body` must be a text, got {_kind(body)}")
    return ProviderVerdict(
        effect=Effect.DENY,
        http_status=_status(result),
        body=body,
        detail=_detail(metadata, body),
        mutations=Mutations(
            set_response_headers=_headers(result, "headers"), dynamic_metadata=metadata
        ),
    )


def _detail(metadata: Mapping[str, Any], body: str) -> str:
    reason = metadata.get("reason")
    return reason if isinstance(reason, str) else body


def _status(result: Mapping[str, Any]) -> int:
    status = result.get("http_status", _DEFAULT_STATUS)
    # WHY 401.0 counts: to Rego it equals 401, and not every engine tells them apart.
    if isinstance(status, float) and status.is_integer():
        status = int(status)
    # A boolean is an int in Python.
    if type(status) is not int:
        raise ResultError(f"`http_status` must be an integer, got {_kind(status)}")
    if status not in _STATUSES:
        raise ResultError(f"`http_status` {status} is not a final HTTP status known to Envoy")
    return status


def _metadata(result: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = result.get("dynamic_metadata", {})
    if not isinstance(metadata, Mapping):
        raise ResultError(f"`dynamic_metadata` must be an object, got {_kind(metadata)}")
    return metadata


def _headers(result: Mapping[str, Any], key: str, *, is_target_open: bool = False) -> Pairs:
    """Return header lines: the value is an object, or a list of such objects."""
    found = result.get(key, {})
    maps = found if isinstance(found, list) else [found]
    lines: list[tuple[str, str]] = []
    for one in maps:
        for name, value in _pairs({key: one}, key):
            if _BAD_VALUE.search(value):
                raise ResultError(f"`{key}` holds a control character in the value of `{name}`")
            is_target = is_target_open and name.lower() in _TARGET_HEADERS
            lines.append((name.lower() if is_target else _header_name(name), value))
    return tuple(lines)


def _header_name(name: str) -> str:
    # WHY no pseudo headers: `:path` would send the request elsewhere than was decided.
    # `host` is Envoy's other name of `:authority`.
    if not _HEADER_NAME.fullmatch(name) or name.lower() == "host":
        raise ResultError(f"`{name}` is not a header name that may be changed")
    return name.lower()


def _pairs(result: Mapping[str, Any], key: str) -> Pairs:
    found = result.get(key, {})
    if not isinstance(found, Mapping):
        raise ResultError(f"`{key}` must be an object of texts, got {_kind(found)}")
    pairs: list[tuple[str, str]] = []
    for name, value in found.items():
        for text in value if isinstance(value, list) else [value]:
            if not isinstance(text, str):
                raise ResultError(f"`{key}` holds {_kind(text)} where a text should stand")
            pairs.append((name, text))
    return tuple(pairs)


def _texts(result: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = result.get(key, [])
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ResultError(f"`{key}` must be a list of texts")
    return tuple(found)


def _kind(value: Any) -> str:
    """Return what a JSON value is, for messages."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"
