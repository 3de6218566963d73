"""What a verified token changes in the request that goes upstream.

Spec: Istio RequestAuthentication, `forwardOriginalToken`, `outputPayloadToHeader`,
`outputClaimToHeaders`, `spaceDelimitedClaims`; forms measured on Envoy 1.40.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from identity.jwt_rule import JwtRule
from identity.jwt_verify import VerifiedToken

_SPLIT_ALWAYS: Final = ("scope", "permission")
_MAX_INTEGER: Final = 2**63
# RFC 9110 §5.5: a field value holds no CR, LF or NUL; other controls serve no one either.
_NOT_IN_HEADERS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def split_claims(payload: Mapping[str, Any], rule: JwtRule) -> dict[str, Any]:
    """Return the payload with space-delimited top-level claims as lists.

    A claim of spaces only stays what it is (reference 3.10).
    """
    split = dict(payload)
    for name in (*_SPLIT_ALWAYS, *rule.space_delimited_claims):
        value = split.get(name)
        if isinstance(value, str) and (words := [word for word in value.split(" ") if word]):
            split[name] = words
    return split


def output_header_names(rules: Iterable[JwtRule]) -> frozenset[str]:
    """Return the lower-case names of every header that any of the rules may write."""
    names: set[str] = set()
    for rule in rules:
        names.update(each.header.lower() for each in rule.output_claim_to_headers)
        if rule.output_payload_to_header:
            names.add(rule.output_payload_to_header.lower())
    return frozenset(names)


def output_headers(token: VerifiedToken, rule: JwtRule) -> tuple[tuple[str, str], ...]:
    """Return the headers that the rule writes for this token; the last of one name stands."""
    headers: dict[str, str] = {}
    for each in rule.output_claim_to_headers:
        text = _header_text(_claim_at(token.payload, each.claim.split(".")))
        if text and _NOT_IN_HEADERS.search(text) is None:
            headers[each.header.lower()] = text
    if rule.output_payload_to_header:
        headers[rule.output_payload_to_header.lower()] = token.payload_text
    return tuple(headers.items())


def _claim_at(payload: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the claim at a dotted path, or None; only objects are walked into."""
    value: Any = payload
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def _header_text(value: Any) -> str:
    """Return a claim as Envoy writes it into a header; empty means no header."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float() if 0 <= value < _MAX_INTEGER and value == int(value):
            return str(int(value))
        case int() | float():
            return f"{value:.6f}"
        case dict() | list():
            text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            return base64.b64encode(text.encode()).decode("ascii")
        case _:
            return ""
