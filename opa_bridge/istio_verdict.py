"""What Istio's own policies say of a request, as Rego reads it: `input.meshwarden.istio`."""

from __future__ import annotations

from typing import Any

from policies.decision import Decision


def istio_verdict(decision: Decision) -> dict[str, Any]:
    """Return the verdict of token, DENY and ALLOW as an object.

    `would` is `allow` or `deny`; `layer` and `reason` are those of the record; `policy`
    (`namespace/name`) and `rule` (its index) are absent where no rule decided.
    """
    found: dict[str, Any] = {
        "would": str(decision.effect),
        "layer": str(decision.layer),
        "reason": str(decision.reason),
    }
    if decision.rule is not None:
        found["policy"] = f"{decision.rule.namespace}/{decision.rule.policy}"
        if decision.rule.rule is not None:
            found["rule"] = decision.rule.rule
    return found
