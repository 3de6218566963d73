"""Conditions on dynamic metadata: verified tokens, and what other filters left there.

Spec: envoy.type.matcher.v3.MetadataMatcher and ValueMatcher. Istio's jwt_authn
filter writes the payload of the verified token under the key `payload`.
"""

from __future__ import annotations

from collections.abc import Sequence

from policies.attributes import claim_path
from policies.rbac.errors import UntranslatableError
from policies.rbac.text import Json, any_text, exact, prefix, suffix, text_match

_JWT_FILTER = "envoy.filters.http.jwt_authn"
_PAYLOAD = "payload"
_EXPERIMENTAL = "experimental."


def claim_match(path: Sequence[str], values: Sequence[str]) -> Json:
    """Return the MetadataMatcher of a claim that is a string or a list of strings."""
    value = _any_value([{"stringMatch": text_match(each)} for each in values])
    either = [{"listMatch": {"oneOf": value}}, value]
    return _metadata(_JWT_FILTER, [_PAYLOAD, *path], {"orMatch": {"valueMatchers": either}})


def claim_names(brackets: str) -> tuple[str, ...]:
    """Return the names in the brackets of `request.auth.claims[a][b]`.

    Raises:
        UntranslatableError: the brackets make no sense.
    """
    names = claim_path(brackets)
    if names is None:
        raise UntranslatableError(f"`{brackets}` names no claim")
    return names


def request_principal_match(value: str) -> tuple[Json, Json]:
    """Return the MetadataMatchers of `iss` and of `sub`, which are both required.

    The value splits at its last `/`, since an issuer is mostly a URL.
    """
    left, slash, right = value.rpartition("/")
    if value == "*":
        issuer, subject = any_text(), any_text()
    elif value.startswith("*") and slash:
        issuer = any_text() if left == "*" else suffix(left[1:])
        subject = exact(right)
    elif value.startswith("*"):
        issuer, subject = any_text(), suffix(value[1:])
    elif value.endswith("*") and slash:
        issuer = exact(left)
        subject = any_text() if right == "*" else prefix(right[:-1])
    elif value.endswith("*"):
        issuer, subject = prefix(value[:-1]), any_text()
    else:
        issuer, subject = exact(left if slash else value), exact(right if slash else "")
    return (
        _metadata(_JWT_FILTER, [_PAYLOAD, "iss"], {"stringMatch": issuer}),
        _metadata(_JWT_FILTER, [_PAYLOAD, "sub"], {"stringMatch": subject}),
    )


def filter_match(key: str, values: Sequence[str]) -> Json:
    """Return the MetadataMatcher of `experimental.envoy.filters.<name>[<key>]`.

    Raises:
        UntranslatableError: the key has no bracket.
    """
    # One closing bracket goes, and what follows the first opening one is the key, whole.
    text = key.removeprefix(_EXPERIMENTAL).removesuffix("]")
    namespace, bracket, name = text.partition("[")
    if not bracket:
        raise UntranslatableError(f"`{key}` names no metadata key")
    return _metadata(namespace, [name], _any_value([_filter_value(each) for each in values]))


def _filter_value(value: str) -> Json:
    # "[v]" looks inside a list, anything else at a string.
    if value.startswith("[") and value.endswith("]"):
        return {"listMatch": {"oneOf": {"stringMatch": text_match(value.strip("[]"))}}}
    return {"stringMatch": text_match(value)}


def _any_value(matchers: list[Json]) -> Json:
    return matchers[0] if len(matchers) == 1 else {"orMatch": {"valueMatchers": matchers}}


def _metadata(namespace: str, path: Sequence[str], value: Json) -> Json:
    return {"filter": namespace, "path": [{"key": key} for key in path], "value": value}
