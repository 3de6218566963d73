"""What Istio builds of token rules for Envoy's `jwt_authn` filter: providers, requirements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from identity.jwt_rule import JwtRule

_SPLIT_ALWAYS: Final = ("scope", "permission")


def provider_of(rule: JwtRule) -> dict[str, Any]:
    """Return the provider of a rule, whose keys stand in the rule."""
    provider: dict[str, Any] = {
        "local_jwks": {"inline_string": rule.jwks},
        "payload_in_metadata": "payload",
        "normalize_payload_in_metadata": {
            "space_delimited_claims": [*_SPLIT_ALWAYS, *rule.space_delimited_claims]
        },
        "forward": rule.forward_original_token,
        "audiences": list(rule.audiences),
        "from_headers": [
            {"name": each.name, "value_prefix": each.prefix} for each in rule.from_headers
        ],
        "from_params": list(rule.from_params),
        "from_cookies": list(rule.from_cookies),
        "claim_to_headers": [
            {"header_name": each.header, "claim_name": each.claim}
            for each in rule.output_claim_to_headers
        ],
    }
    if rule.issuer:
        provider["issuer"] = rule.issuer
    if rule.output_payload_to_header:
        provider["forward_payload_header"] = rule.output_payload_to_header
    return provider


def requirement_of(names: Sequence[str]) -> dict[str, Any]:
    """Return the requirement of one provider or of several (reference 7.4)."""
    missing: dict[str, Any] = {"allow_missing": {}}
    if len(names) == 1:
        return {"requires_any": {"requirements": [{"provider_name": names[0]}, missing]}}
    each = [{"provider_name": name} for name in names]
    both = [{"requires_any": {"requirements": [one, missing]}} for one in each]
    return {"requires_any": {"requirements": [*each, {"requires_all": {"requirements": both}}]}}
