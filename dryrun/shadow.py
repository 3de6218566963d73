"""What policies that are not enforced would have answered, beside the enforced ones.

Each dry-run policy is tried alone, then all of them together. The candidate set is
another matter, see `dryrun.candidate`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from policies.decision import Decision, Layer, RuleRef, ShadowOutcome, ShadowVerdict
from policies.matchers import CompiledPolicy
from policies.request import Request
from policies.snapshot import WorkloadPolicies

TOGETHER: Final = "together"
"""The name under which stands the verdict of all dry-run policies promoted at once."""

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
    """Return one verdict for each dry-run policy alone; of several, also that of all together.

    INVARIANT: never raises for what a policy does; the enforced answer is not touched.
    """
    if not policies.dry_run:
        return ()

    def decided(promoted: Callable[[], WorkloadPolicies]) -> Decision:
        is_final = is_denied_before_rules(enforced)
        return enforced if is_final else decide_rules(promoted(), request)

    def alone(policy: CompiledPolicy) -> ShadowVerdict:
        return _judged(
            policy.ref.name,
            str(policy.action),
            enforced,
            lambda: (
                policy.first_match(request),
                decided(lambda: policies.with_enforced(policy)),
            ),
            rules=_count(policy),
        )

    verdicts = tuple(alone(policy) for policy in policies.dry_run)
    if len(verdicts) == 1:
        return verdicts

    def together() -> tuple[RuleRef | None, Decision]:
        decision = decided(policies.with_all_enforced)
        return decision.rule, decision

    return (*verdicts, _judged(TOGETHER, "", enforced, together))


def is_denied_before_rules(enforced: Decision) -> bool:
    """Whether the DENY and ALLOW policies were never asked."""
    return not enforced.is_allowed and enforced.layer in _EARLIER_LAYERS


def beside(  # noqa: PLR0913 - the two, the rest keyword-only
    policy: str,
    enforced: Decision,
    shadow: Decision,
    *,
    matched: RuleRef | None,
    action: str = "",
    revision: str = "",
    rules: int = 0,
) -> ShadowVerdict:
    """Return the verdict that sets a shadow's answer beside the enforced one."""
    outcome = ShadowOutcome.SAME
    detail = ""
    if enforced.effect is not shadow.effect:
        is_denial = not shadow.is_allowed
        outcome = ShadowOutcome.WOULD_DENY if is_denial else ShadowOutcome.WOULD_ALLOW
        detail = f"{enforced.effect} would become {shadow.effect}"
    elif is_denied_before_rules(enforced):
        detail = f"denied before the rules, by {enforced.layer}"
    return ShadowVerdict(
        policy=policy,
        action=action,
        matched=matched,
        effect=shadow.effect,
        outcome=outcome,
        detail=detail,
        would=None if outcome is ShadowOutcome.SAME else shadow,
        revision=revision,
        rules=rules,
    )


def without_verdict(
    policy: str,
    enforced: Decision,
    why: str,
    *,
    action: str = "",
    revision: str = "",
    rules: int = 0,
) -> ShadowVerdict:
    """Return the mark of a shadow that came to nothing; `why` holds nothing of the request."""
    return ShadowVerdict(
        policy=policy,
        action=action,
        matched=None,
        effect=enforced.effect,
        outcome=ShadowOutcome.ERROR,
        detail=why,
        revision=revision,
        rules=rules,
    )


def _judged(
    policy: str,
    action: str,
    enforced: Decision,
    judge: Callable[[], tuple[RuleRef | None, Decision]],
    *,
    rules: int = 0,
) -> ShadowVerdict:
    try:
        matched, decision = judge()
    except Exception as exc:  # the real answer must survive whatever a shadow does
        why = f"the shadow evaluation failed: {type(exc).__name__}"
        return without_verdict(policy, enforced, why, action=action, rules=rules)
    return beside(policy, enforced, decision, matched=matched, action=action, rules=rules)


def _count(policy: CompiledPolicy) -> int:
    """Return how many rules were written; those that can match nothing keep their numbers."""
    last = policy.rules[-1].ref.rule if policy.rules else None
    return 0 if last is None else last + 1
