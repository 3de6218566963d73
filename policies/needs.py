"""What a policy set looks at: the keys of its conditions, and what a record must hold for them.

A record of a decision can be decided again under other policies as far as it holds what those
look at; this says what that is.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from identity.jwt_rule import JwtRule
from policies.attributes import claim_path
from policies.matchers import CompiledPolicy
from policies.model import AuthorizationPolicy

_HEADERS, _CLAIMS = "request.headers", "request.auth.claims"
_METADATA = "experimental.envoy.filters."
_FORWARDED_FOR = "x-forwarded-for"
_DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyNeeds:
    """The parts of requests that conditions name one by one.

    `headers` are lower-case names, `claims` are paths of names, `metadata` are pairs of
    namespace and key.
    """

    headers: frozenset[str] = frozenset()
    claims: frozenset[tuple[str, ...]] = frozenset()
    metadata: frozenset[tuple[str, str]] = frozenset()


def needs_of(policies: Iterable[AuthorizationPolicy]) -> PolicyNeeds:
    """Return what the conditions of policies name."""
    keys = {
        clause.key
        for policy in policies
        for rule in policy.rules
        for group in (*rule.sources, *rule.operations, rule.when)
        for clause in group
    }
    headers = {name for key in keys if (name := header_of(key)) is not None}
    # "request.auth.audiences" and "request.auth.presenter" are claims of these names.
    claims = {path for key in keys if (path := claim_of(key)) is not None}
    metadata = {found for key in keys if (found := metadata_of(key)) is not None}
    return PolicyNeeds(
        headers=frozenset(headers), claims=frozenset(claims), metadata=frozenset(metadata)
    )


def keys_of(policies: Iterable[CompiledPolicy]) -> frozenset[str]:
    """Return the keys of every condition that is tried."""
    return frozenset(
        clause.source.key
        for policy in policies
        for rule in policy.rules
        for group in (*rule.sources, *rule.operations, rule.when)
        for clause in group
    )


def header_of(key: str) -> str | None:
    """Return the header that a key is tested on, or None for other keys."""
    if key == "remote.ip":
        return _FORWARDED_FOR
    if not (key.startswith(_HEADERS + "[") and key.endswith("]")):
        return None
    name = key[len(_HEADERS) + 1 : -1].lower()
    # "`host` is an alias of `:authority`" in Envoy's header map.
    return ":authority" if name == "host" else name


def claim_of(key: str) -> tuple[str, ...] | None:
    """Return the path of the claim that a key is tested on, or None for other keys."""
    match key:
        case "request.auth.audiences":
            return ("aud",)
        case "request.auth.presenter":
            return ("azp",)
    return claim_path(key[len(_CLAIMS) :]) if key.startswith(_CLAIMS) else None


def metadata_of(key: str) -> tuple[str, str] | None:
    """Return namespace and key of the filter metadata that a key is tested on, or None."""
    if not key.startswith(_METADATA):
        return None
    name, _, inner = key[len(_METADATA) :].removesuffix("]").partition("[")
    return f"envoy.filters.{name}", inner


def rules_digest(rules: Sequence[JwtRule]) -> str:
    """Return a digest of token rules; where they stand and whose they are does not count."""
    if not rules:
        return ""
    texts = sorted(repr(replace(rule, origin=None)) for rule in rules)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:_DIGEST_LENGTH]


def issuer_digests(rules: Sequence[JwtRule]) -> Mapping[str, str]:
    """Return the digest of each issuer's rule, without issuers of several rules."""
    counts = Counter(rule.issuer for rule in rules)
    return {rule.issuer: rules_digest([rule]) for rule in rules if counts[rule.issuer] == 1}
