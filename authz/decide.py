"""The verdict: the layers of Istio's filter chain, in their order, on values only.

No I/O but what a provider does. Each branch stands under the sentence of the
Istio AuthorizationPolicy reference that it implements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

from authz.custom import Asking, CustomTerms, after_custom, decide_custom
from authz.denial import denial
from authz.mutation_sequence import as_changed, without_headers
from policies.decision import Decision, Effect, Layer, Provider, Reason
from policies.index import PolicyIndex
from policies.matchers import CompiledRule
from policies.model import Clause
from policies.request import Request
from policies.snapshot import WorkloadPolicies

_OPERATION_KEYS = frozenset(
    {"operation.hosts", "operation.methods", "operation.paths", "destination.port"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenStage:
    """What became of the request's tokens.

    `refusal` is the answer where one does not hold. `verified` is the request as the
    DENY and ALLOW layers see it: the verification takes headers away and writes some.
    None: it did neither. `owned_headers` are those that nobody but it writes, `taken_headers`
    do not go upstream. `carriers` are the headers in which tokens are looked for; `again`
    verifies those of a request that a provider changed.
    """

    refusal: Decision | None = None
    verified: Request | None = None
    owned_headers: frozenset[str] = frozenset()
    taken_headers: frozenset[str] = frozenset()
    carriers: frozenset[str] = frozenset()
    again: Callable[[Request], TokenStage] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A decision, and the request as the DENY and ALLOW policies saw it."""

    decision: Decision
    request: Request


def decide(
    policies: WorkloadPolicies, request: Request, providers: Mapping[str, Provider]
) -> Decision:
    """Return the verdict on a request without tokens whose peer is in it."""
    return judge(policies, request, providers).decision


def judge(
    policies: WorkloadPolicies,
    request: Request,
    providers: Mapping[str, Provider],
    *,
    token: TokenStage = TokenStage(),
    terms: CustomTerms = CustomTerms(),  # noqa: B008 - an immutable value
    asking: Asking = Asking(),  # noqa: B008 - an immutable value
) -> Judgement:
    """Return the verdict on a request whose peer and claims are already in it.

    Tokens were verified before, so that providers see their claims; the order in which
    refusals are told is Istio's: peer, CUSTOM, token, DENY, ALLOW.
    """
    verified = token.verified or request
    denied = deny_without_peer(policies, request)
    if denied is not None:
        return Judgement(decision=denied, request=verified)

    if not (policies.custom or terms.default):
        decision = token.refusal or decide_rules(policies, verified)
        return Judgement(decision=decision, request=verified)

    @cache
    def as_it_came() -> Decision:
        return token.refusal or decide_rules(policies, verified)

    custom = decide_custom(policies, request, providers, terms, replace(asking, istio=as_it_came))
    if custom is None:
        return Judgement(decision=as_it_came(), request=verified)
    if not custom.is_allowed:
        return Judgement(decision=custom, request=verified)
    # Istio's JWT filter stands behind CUSTOM: what a provider made of a header that the
    # verification writes is overwritten, or taken away where there was no token.
    custom = replace(custom, mutations=without_headers(custom.mutations, token.owned_headers))
    changed = as_changed(request, custom.mutations)
    if token.again is not None and _moves_tokens(request, changed, token.carriers):
        return _verified_again(policies, custom, token.again(changed), changed)
    # A filter sees the request as the one before it left it.
    seen = as_changed(verified, custom.mutations)
    is_known = seen is verified or token.refusal is not None
    verdict = as_it_came() if is_known else decide_rules(policies, seen)
    return Judgement(decision=after_custom(custom, verdict), request=seen)


def _moves_tokens(request: Request, changed: Request, carriers: Iterable[str]) -> bool:
    """Return whether tokens would be found elsewhere, or others, after what providers changed."""
    if changed is request:
        return False
    places = {name: request.headers.get(name) for name in carriers}
    return changed.path != request.path or places != {
        name: changed.headers.get(name) for name in carriers
    }


def _verified_again(
    policies: WorkloadPolicies, custom: Decision, token: TokenStage, changed: Request
) -> Judgement:
    """Return the verdict on a request of which a provider wrote, or took away, the token."""
    seen = token.verified or changed
    verdict = token.refusal or decide_rules(policies, seen)
    # What the verification takes away does not go upstream, whoever wrote it.
    custom = replace(custom, mutations=without_headers(custom.mutations, token.taken_headers))
    return Judgement(decision=after_custom(custom, verdict), request=seen)


def deny_without_peer(policies: WorkloadPolicies, request: Request) -> Decision | None:
    """Return a denial when mTLS is required and there is no peer."""
    # "STRICT: Connection is an mTLS tunnel (TLS with client cert must be presented)."
    if policies.peer.admits(request):
        return None
    is_mtls = request.peer is not None and request.peer.over_mtls
    return denial(
        Reason.PEER_REQUIRED,
        Layer.PEER_AUTHENTICATION,
        rule=policies.peer.ref_for(request.destination_port),
        detail="mTLS is STRICT here and the request came without "
        + ("a workload's identity" if is_mtls else "a client certificate"),
    )


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
