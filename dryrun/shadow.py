"""What each dry-run policy would have answered, had it been enforced with the others."""

from __future__ import annotations

from typing import Protocol

from policies.decision import Decision, Effect, Layer, ShadowOutcome, ShadowVerdict
from policies.matchers import CompiledPolicy
from policies.request import Request
from policies.snapshot import WorkloadPolicies

# A denial from one of these stands whatever the DENY and ALLOW policies say.
_EARLIER_LAYERS = frozenset(
    {
        Layer.REQUEST,
        Layer.PEER_AUTHENTICATION,
        Layer.REQUEST_AUTHENTICATION,
        Layer.CUSTOM,
        Layer.INTERNAL,
    }
)


class DecideRules(Protocol):
    """The DENY and ALLOW layers of the walk, without providers and tokens."""

    def __call__(self, policies: WorkloadPolicies, request: Request, /) -> Decision:
        """Return what the DENY and ALLOW policies say about a request."""
        ...


def shadow_verdicts(
    policies: WorkloadPolicies, request: Request, enforced: Decision, decide_rules: DecideRules
) -> tuple[ShadowVerdict, ...]:
    """Return one verdict for each dry-run policy, alone beside the enforced ones.

    INVARIANT: never raises for what a policy does; the enforced answer is not touched.
    """
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
    name, action = policy.ref.name, str(policy.action)
    try:
        matched = policy.first_match(request)
        effect = enforced.effect
        if enforced.is_allowed or enforced.layer not in _EARLIER_LAYERS:
            effect = decide_rules(policies.with_enforced(policy), request).effect
    except Exception as exc:  # noqa: BLE001 - the real answer must survive whatever a shadow does
        return ShadowVerdict(
            policy=name,
            action=action,
            matched=None,
            effect=enforced.effect,
            outcome=ShadowOutcome.ERROR,
            detail=f"the shadow evaluation failed: {type(exc).__name__}",
        )
    return ShadowVerdict(
        policy=name,
        action=action,
        matched=matched,
        effect=effect,
        outcome=_outcome(enforced.effect, effect),
        detail=_detail(enforced, effect),
    )


def _outcome(enforced: Effect, shadow: Effect) -> ShadowOutcome:
    if enforced is shadow:
        return ShadowOutcome.SAME
    return ShadowOutcome.WOULD_DENY if shadow is Effect.DENY else ShadowOutcome.WOULD_ALLOW


def _detail(enforced: Decision, shadow: Effect) -> str:
    if not enforced.is_allowed and enforced.layer in _EARLIER_LAYERS:
        return f"denied before the rules, by {enforced.layer}"
    return "" if shadow is enforced.effect else f"{enforced.effect} would become {shadow}"
