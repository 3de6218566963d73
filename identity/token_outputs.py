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

from identity.claims import VerifiedClaims
from identity.jwt_rule import JwtRule
from identity.jwt_verify import VerifiedToken

_SPLIT_ALWAYS: Final = ("scope", "permission")
_INTEGERS_END: Final = 2**64
# Control and format characters that protobuf's JSON escapes; `<` and `>` besides.
_ESCAPED: Final = re.compile(
    "[\x7f-\x9f\xad\u0600-\u0603\u06dd\u070f\u17b4\u17b5\u200b-\u200f\u2028-\u202e"
    "\u2060-\u2064\u206a-\u206f\ufeff\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0001"
    "\U000e0020-\U000e007f]"
)
_ANGLES: Final = {ord("<"): "\\u003c", ord(">"): "\\u003e"}
# RFC 9110 §5.5: a field value holds no CR, LF or NUL; other controls serve no one either.
_NOT_IN_HEADERS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def verified_claims(token: VerifiedToken, rule: JwtRule) -> VerifiedClaims:
    """Return the payload with space-delimited top-level claims as lists.

    A claim of spaces only stays what it is (reference 3.10). The same token under the same rule
    gives the same object, so that who keeps what was made of it knows it again.
    """
    known = token.split.get(rule.space_delimited_claims)
    if known is None:
        split = dict(token.payload)
        for name in (*_SPLIT_ALWAYS, *rule.space_delimited_claims):
            value = split.get(name)
            if isinstance(value, str) and (words := [word for word in value.split(" ") if word]):
                split[name] = words
        known = token.split.setdefault(rule.space_delimited_claims, VerifiedClaims(split))
    return known


def output_header_names(rules: Iterable[JwtRule]) -> frozenset[str]:
    """Return the lower-case names of every header that any of the rules may write."""
    names: set[str] = set()
    for rule in rules:
        names.update(each.header.lower() for each in rule.output_claim_to_headers)
        if rule.output_payload_to_header:
            names.add(rule.output_payload_to_header.lower())
    return frozenset(names)


def output_headers(token: VerifiedToken, rule: JwtRule) -> tuple[tuple[str, str], ...]:
    """Return the headers that the rule writes for this token; a name may come more than once."""
    # WHY every value: Envoy adds each as a header of its own, and a DENY may be about any of them.
    headers: list[tuple[str, str]] = []
    for each in rule.output_claim_to_headers:
        text = _header_text(_claim_at(token.payload, each.claim.split(".")))
        if text and _NOT_IN_HEADERS.search(text) is None:
            headers.append((each.header.lower(), text))
    if rule.output_payload_to_header:
        headers.append((rule.output_payload_to_header.lower(), token.payload_text))
    return tuple(headers)


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
        case int() | float() if 0 <= value < _INTEGERS_END and value == int(value):
            return str(int(value))
        case int() | float():
            return f"{value:.6f}"
        case dict() | list():
            return base64.b64encode(_json_text(value).encode()).decode("ascii")
        case _:
            return ""


def _json_text(value: Any) -> str:
    """Return a claim as protobuf prints JSON, members by name (protobuf knows no order)."""
    match value:
        case dict():
            members = (f"{_json_string(name)}:{_json_text(value[name])}" for name in sorted(value))
            return f"{{{','.join(members)}}}"
        case list():
            return f"[{','.join(map(_json_text, value))}]"
        case str():
            return _json_string(value)
        case bool() | None:
            return json.dumps(value)
        case _:
            return _json_number(float(value))


def _json_string(text: str) -> str:
    """Return a text quoted, with what protobuf escapes beyond RFC 8259 §7."""
    quoted = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: json.dumps(found[0])[1:-1].lower(), quoted).translate(_ANGLES)


def _json_number(value: float) -> str:
    """Return a double in 15 digits, or in 17 where 15 would be another double."""
    text = f"{value:.15g}"
    return text if float(text) == value else f"{value:.17g}"
