"""What each policy that is not enforced would have answered, beside the answer that was given.

Each dry-run policy is asked alone: enforced together with all policies that are
enforced now. Nothing here can change the answer; what fails is marked as an error.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.decision import (
    Decision,
    Effect,
    Layer,
    ShadowOutcome,
    ShadowVerdict,
)
from policies.matchers import CompiledPolicy
from policies.request import Request
from policies.snapshot import WorkloadPolicies

DecideRules = Callable[[WorkloadPolicies, Request], Decision]
"""The DENY and ALLOW layers as a function; handed in by the caller."""

# A denial from one of these layers stands whatever DENY and ALLOW policies say.
_EARLIER = frozenset(
    {Layer.REQUEST, Layer.PEER_AUTHENTICATION, Layer.REQUEST_AUTHENTICATION, Layer.CUSTOM}
)


def shadow_verdicts(
    policies: WorkloadPolicies, request: Request, enforced: Decision, decide_rules: DecideRules
) -> tuple[ShadowVerdict, ...]:
    """Return one verdict for each dry-run policy of the workload, in the policies' order."""
    return tuple(
        _shadow(policy, policies, request, enforced, decide_rules) for policy in policies.dry_run
    )


def _shadow(
    policy: CompiledPolicy,
    policies: WorkloadPolicies,
    request: Request,
    enforced: Decision,
    decide_rules: DecideRules,
) -> ShadowVerdict:
    try:
        matched = policy.first_match(request)
        if not enforced.is_allowed and enforced.layer in _EARLIER:
            effect = Effect.DENY
        else:
            effect = decide_rules(policies.with_enforced(policy), request).effect
    except Exception as exc:
        # WHY so wide: a shadow must never touch the answer, whatever is wrong with it.
        return ShadowVerdict(
            policy=policy.ref.name,
            action=policy.action,
            matched=None,
            effect=enforced.effect,
            outcome=ShadowOutcome.ERROR,
            detail=f"the shadow evaluation failed with {type(exc).__name__}",
        )
    return ShadowVerdict(
        policy=policy.ref.name,
        action=policy.action,
        matched=matched,
        effect=effect,
        outcome=_outcome(enforced.effect, effect),
    )


def _outcome(enforced: Effect, shadow: Effect) -> ShadowOutcome:
    if shadow is enforced:
        return ShadowOutcome.SAME
    return ShadowOutcome.WOULD_DENY if shadow is Effect.DENY else ShadowOutcome.WOULD_ALLOW
