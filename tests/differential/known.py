"""Differences that are known, and explained in `docs/differences.md` under the same name.

Each is recognized by what made it, not by the statuses alone: another difference
that looks alike stays a difference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from tests.differential.model import Difference

_TWICE_DOTTED = "two dots and 3 sections"
_NOT_BASE64 = "is an invalid Base64url encoded"
_SPACED = re.compile(r"\{token\d\}(?:[ \t]|%20|%09|%0[aAdD])")


def _is_without_a_route(found: Difference) -> bool:
    """No route was found: Envoy asked its own filters, but not us, and would answer 404."""
    return found.ours.status == 404 and found.ours.why == "route_not_found was not asked"


def _is_token_with_empty_section(found: Difference) -> bool:
    """Ours refused a token with an empty section, which Envoy's parser skips over."""
    return (
        found.ours.status == 401
        and _TWICE_DOTTED in found.ours.why
        and any(token.get("fault") == "garbled" for token in found.probe.tokens)
    )


def _is_token_with_white_space(found: Difference) -> bool:
    """Ours refused a token with white space behind it, which Envoy's decoder passes over."""
    places = (found.probe.target, *(value for _, value in found.probe.headers))
    return (
        found.ours.status == 401
        and _NOT_BASE64 in found.ours.why
        and any(_SPACED.search(text) for text in places)
    )


def _is_token_beside_a_bad_one(found: Difference) -> bool:
    """Envoy took a good token away, and a second look did not see the bad one beside it."""
    names = Counter(name.lower() for name, _ in found.probe.headers)
    with_token = {name.lower() for name, value in found.probe.headers if "{token" in value}
    return (
        found.ours.status == 401
        and " token_invalid " in found.ours.why
        and any(names[name] > 1 or _looked_at_twice(found, name) for name in with_token)
        and _jwt_rule_count(found) > 1
    )


def _looked_at_twice(found: Difference, name: str) -> bool:
    """Whether a rule looks into one header by two prefixes: one text may be two tokens."""
    return any(
        sum(header["name"].lower() == name for header in rule.get("fromHeaders", ())) > 1
        for each in found.policies.resources
        for rule in each["spec"].get("jwtRules", ())
    )


def _jwt_rule_count(found: Difference) -> int:
    return sum(len(each["spec"].get("jwtRules", ())) for each in found.policies.resources)


def _is_metadata_not_utf8(found: Difference) -> bool:
    """Envoy sent metadata that is not UTF-8, in a message that no reader takes then."""
    return (
        found.ours.status == 400
        and "not a CheckRequest" in found.ours.why
        and any(
            name.lower() == "x-meta" and not value.isascii() for name, value in found.probe.headers
        )
    )


EXPLAINED: dict[str, Callable[[Difference], bool]] = {
    "no-route-no-question": _is_without_a_route,
    "token-with-empty-section": _is_token_with_empty_section,
    "token-with-white-space": _is_token_with_white_space,
    "token-beside-a-bad-one": _is_token_beside_a_bad_one,
    "metadata-not-utf-8": _is_metadata_not_utf8,
}


def explanation(difference: Difference) -> str:
    """Return the name under which the difference is explained, or an empty text."""
    for name, is_so in EXPLAINED.items():
        if is_so(difference):
            return name
    return ""
