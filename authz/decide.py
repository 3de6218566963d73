"""The verdict: the layers of Istio's filter chain, in their order, on values only.

No I/O but what a provider does. Each branch stands under the sentence of the
Istio AuthorizationPolicy reference that it implements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from policies.decision import (
    Decision,
    Effect,
    Layer,
    Provider,
    ProviderError,
    ProviderVerdict,
    Reason,
    RuleRef,
)
from policies.index import PolicyIndex
from policies.matchers import CompiledRule
from policies.model import Clause
from policies.request import Request
from policies.snapshot import WorkloadPolicies

DENIED_BODY = "RBAC: access denied"
_FORBIDDEN = 403
_OPERATION_KEYS = frozenset(
    {"operation.hosts", "operation.methods", "operation.paths", "destination.port"}
)


def decide(
    policies: WorkloadPolicies,
    request: Request,
    providers: Mapping[str, Provider],
    verified: Request | None = None,
) -> Decision:
    """Return the verdict on a request whose peer and claims are already in it.

    `verified` is the request as the DENY and ALLOW layers see it: the verification
    of tokens takes headers away and writes some. None: it did neither.
    """
    denied = deny_without_peer(policies, request)
    if denied is not None:
        return denied
    custom = decide_custom(policies, request, providers)
    if custom is not None and not custom.is_allowed:
        return custom
    verdict = decide_rules(policies, verified or request)
    if custom is None or not verdict.is_allowed:
        return verdict
    return replace(verdict, mutations=custom.mutations)


def deny_without_peer(policies: WorkloadPolicies, request: Request) -> Decision | None:
    """Return a denial when mTLS is required and there is no peer."""
    # "STRICT: Connection is an mTLS tunnel (TLS with client cert must be presented)."
    if policies.peer.admits(request):
        return None
    return denial(
        Reason.PEER_REQUIRED,
        Layer.PEER_AUTHENTICATION,
        rule=policies.peer.ref_for(request.destination_port),
        detail="mTLS is STRICT here and the request came without "
        + ("a client certificate" if request.peer is None else "a workload's identity"),
    )


def decide_custom(
    policies: WorkloadPolicies, request: Request, providers: Mapping[str, Provider]
) -> Decision | None:
    """Return the providers' common verdict, or None when no CUSTOM rule matches."""
    # "If there are any CUSTOM policies that match the request, evaluate and deny the
    # request if the evaluation result is deny."
    answer: Decision | None = None
    for name, named in policies.custom.items():
        matched = named.first_match(request)
        if matched is None:
            continue
        verdict = _ask(name, providers, request, matched)
        if not verdict.is_allowed:
            return verdict
        answer = verdict if answer is None else _both(answer, verdict)
    return answer


def decide_rules(policies: WorkloadPolicies, request: Request) -> Decision:
    """Return the verdict of the DENY and ALLOW layers."""
    audited = policies.audit.all_matches(request)
    # "If there are any DENY policies that match the request, deny the request."
    matched = policies.deny.first_match(request)
    if matched is not None:
        return denial(
            Reason.DENY_RULE_MATCHED,
            Layer.DENY,
            rule=matched,
            detail=f"DENY rule {matched.name} matched{_peerless(request)}",
            audited_by=audited,
        )
    # "If there are no ALLOW policies for the workload, allow the request."
    if not policies.allow:
        return Decision(
            effect=Effect.ALLOW,
            reason=Reason.NO_ALLOW_POLICY,
            layer=Layer.DEFAULT,
            detail="no ALLOW policy applies to the workload",
            audited_by=audited,
        )
    # "If any of the ALLOW policies match the request, allow the request."
    matched = policies.allow.first_match(request)
    if matched is not None:
        return Decision(
            effect=Effect.ALLOW,
            reason=Reason.ALLOW_RULE_MATCHED,
            layer=Layer.ALLOW,
            rule=matched,
            detail=f"ALLOW rule {matched.name} matched",
            audited_by=audited,
        )
    # "Deny the request."
    return denial(
        Reason.NO_ALLOW_RULE_MATCHED,
        Layer.ALLOW,
        detail="no rule of the workload's ALLOW policies matched" + _peerless(request),
        near_miss=near_miss(policies.allow, request),
        audited_by=audited,
    )


def denial(  # noqa: PLR0913 - keyword-only facts of one value
    reason: Reason,
    layer: Layer,
    *,
    rule: RuleRef | None = None,
    detail: str = "",
    near_miss: str = "",
    audited_by: tuple[RuleRef, ...] = (),
) -> Decision:
    """Return a denial with Istio's own status and body."""
    return Decision(
        effect=Effect.DENY,
        reason=reason,
        layer=layer,
        rule=rule,
        detail=detail,
        near_miss=near_miss,
        http_status=_FORBIDDEN,
        body=DENIED_BODY,
        audited_by=audited_by,
    )


def near_miss(allow: PolicyIndex, request: Request) -> str:
    """Return which ALLOW rule came closest and what kept it from matching."""
    best: tuple[tuple[int, int], CompiledRule, tuple[Clause, ...]] | None = None
    for rule in allow.near_rules(request):
        failing = rule.failing(request)
        # Of equals, the rule that is about this operation tells more than one about another.
        elsewhere = sum(clause.key in _OPERATION_KEYS for clause in failing)
        distance = (len(failing), elsewhere)
        if best is None or distance < best[0]:
            best = (distance, rule, failing)
    if best is None:
        return "the ALLOW policies have no rules"
    names = " and ".join(f"`{clause.spelled}`" for clause in best[2])
    return f"{best[1].ref.name} ({best[1].ref.place}) would have matched but for {names}"


def _peerless(request: Request) -> str:
    """Return the clause that says so when nobody is known at the other end."""
    return "" if request.peer is not None else "; the request has no peer (no client certificate)"


def _ask(
    name: str, providers: Mapping[str, Provider], request: Request, matched: RuleRef
) -> Decision:
    """Return a provider's verdict as a decision; one that cannot answer denies."""
    provider = providers.get(name)
    if provider is None:
        # Istio turns rules that name an unknown provider into DENY rules.
        return denial(
            Reason.PROVIDER_UNKNOWN,
            Layer.CUSTOM,
            rule=matched,
            detail=f"no provider `{name}` is configured",
        )
    try:
        verdict = provider.evaluate(request)
    except ProviderError as exc:
        return denial(
            Reason.PROVIDER_ERROR,
            Layer.CUSTOM,
            rule=matched,
            detail=f"provider `{name}` gave no verdict: {exc}",
        )
    return _from_verdict(name, verdict, matched)


def _from_verdict(name: str, verdict: ProviderVerdict, matched: RuleRef) -> Decision:
    allowed = verdict.effect is Effect.ALLOW
    said = f": {verdict.detail}" if verdict.detail else ""
    return Decision(
        effect=verdict.effect,
        reason=Reason.ALLOW_RULE_MATCHED if allowed else Reason.CUSTOM_DENIED,
        layer=Layer.CUSTOM,
        rule=matched,
        detail=f"provider `{name}` {'allowed' if allowed else 'denied'}{said}",
        http_status=200 if allowed else verdict.http_status,
        body="" if allowed else verdict.body or DENIED_BODY,
        mutations=verdict.mutations,
    )


def _both(first: Decision, second: Decision) -> Decision:
    """Return the allow of two providers: the later one's mutations are applied last."""
    one, two = first.mutations, second.mutations
    return replace(
        second,
        mutations=replace(
            two,
            set_request_headers=one.set_request_headers + two.set_request_headers,
            remove_request_headers=one.remove_request_headers + two.remove_request_headers,
            set_response_headers=one.set_response_headers + two.set_response_headers,
            set_query_parameters=one.set_query_parameters + two.set_query_parameters,
            remove_query_parameters=one.remove_query_parameters + two.remove_query_parameters,
            dynamic_metadata={**one.dynamic_metadata, **two.dynamic_metadata},
        ),
    )
