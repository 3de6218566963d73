"""How this house says no."""

from __future__ import annotations

from policies.decision import Decision, Effect, Layer, Reason, RuleRef

DENIED_BODY = "RBAC: access denied"
FORBIDDEN = 403


def denial(  # noqa: PLR0913 - keyword-only facts of one value
    reason: Reason,
    layer: Layer,
    *,
    rule: RuleRef | None = None,
    detail: str = "",
    near_miss: str = "",
    http_status: int = FORBIDDEN,
    audited_by: tuple[RuleRef, ...] = (),
) -> Decision:
    """Return a denial with Istio's own body and, unless told otherwise, its status."""
    return Decision(
        effect=Effect.DENY,
        reason=reason,
        layer=layer,
        rule=rule,
        detail=detail,
        near_miss=near_miss,
        http_status=http_status,
        body=DENIED_BODY,
        audited_by=audited_by,
    )
