"""The CUSTOM layer: which providers a request is put to, and what their answers come to.

Spec: Istio sends Envoy, for every provider in the byte order of names, a filter that finds
whether a CUSTOM rule matches, and behind it one that asks the provider. All that are asked
have to allow; the first denial ends the request. What one changes, the next one sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from authz.denial import DENIED_BODY, FORBIDDEN, denial
from authz.mutation_sequence import as_changed, in_sequence, on_denial
from policies.decision import (
    Decision,
    Effect,
    FailedOpen,
    Layer,
    Mutations,
    Provider,
    ProviderError,
    ProviderTimeout,
    ProviderVerdict,
    Reason,
    RuleRef,
    UnfitRequest,
)
from policies.request import Request
from policies.snapshot import WorkloadPolicies

Observe = Callable[[str, str, float], None]
"""Hears of a provider's name, what came of asking it, and the seconds that took.

What came of it: `allowed`, `denied`, `provider_timeout` or `provider_error`.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTerms:
    """What the operator wants when a provider gives no verdict."""

    fails_open: bool = False
    error_status: int = FORBIDDEN


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomTerms:
    """How providers come to be asked.

    `default` names the provider of requests that no CUSTOM rule sends to another.
    Without `asks_several`, CUSTOM policies of more than one provider on a workload deny
    what they match, as istiod has it by default.
    """

    default: str = ""
    asks_several: bool = True
    of: Mapping[str, ProviderTerms] = field(default_factory=dict)

    def terms_of(self, name: str) -> ProviderTerms:
        """Return the terms of a provider."""
        return self.of.get(name, ProviderTerms())


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """What goes along with a request to every provider.

    `seconds_left` returns what is left of the caller's time, None when nobody waits.
    `istio` works out what token, DENY and ALLOW policies say of the request as it came. `saw`
    hears of the request that a provider's policies see behind another provider.
    """

    seconds_left: Callable[[], float | None] = lambda: None
    istio: Callable[[], Decision] | None = None
    observe: Observe = lambda name, came, seconds: None
    saw: Callable[[str, Request], None] = lambda name, request: None


def decide_custom(
    policies: WorkloadPolicies,
    request: Request,
    providers: Mapping[str, Provider],
    terms: CustomTerms,
    asking: Asking,
) -> Decision | None:
    """Return the providers' common verdict, or None when no provider is concerned."""
    # "If there are any CUSTOM policies that match the request, evaluate and deny the
    # request if the evaluation result is deny."
    answer: Decision | None = None
    for name, named in policies.custom.items():
        seen = request
        if answer is not None:
            seen = as_changed(request, answer.mutations)
            asking.saw(name, seen)
        matched = named.first_match(seen)
        if matched is None:
            continue
        if len(policies.custom) > 1 and not terms.asks_several:
            return _too_many(policies, matched)
        verdict = _ask(name, seen, providers, terms, asking, matched)
        if not verdict.is_allowed:
            return verdict if answer is None else _denied_after(answer, verdict)
        answer = verdict if answer is None else _both(answer, verdict)
    if answer is None and terms.default:
        return _ask(terms.default, request, providers, terms, asking, None)
    return answer


def after_custom(custom: Decision, verdict: Decision) -> Decision:
    """Return the verdict of the later layers with what the providers did to the request."""
    if not verdict.is_allowed:
        return _denied_after(custom, verdict)
    # Where no ALLOW policy has a say, it was the provider that let the request in.
    decided = verdict.layer is Layer.DEFAULT and not custom.failed_open
    return replace(
        verdict,
        reason=custom.reason if decided else verdict.reason,
        layer=custom.layer if decided else verdict.layer,
        rule=custom.rule if decided else verdict.rule,
        mutations=custom.mutations,
        failed_open=custom.failed_open,
        detail=f"{custom.detail}; {verdict.detail}",
    )


def _too_many(policies: WorkloadPolicies, matched: RuleRef) -> Decision:
    names = ", ".join(f"`{name}`" for name in policies.custom)
    return denial(
        Reason.SEVERAL_PROVIDERS,
        Layer.CUSTOM,
        rule=matched,
        detail=f"the workload's CUSTOM policies name several providers ({names}) and "
        "`mesh.multipleProviders` is off",
    )


def _ask(
    name: str,
    request: Request,
    providers: Mapping[str, Provider],
    terms: CustomTerms,
    asking: Asking,
    matched: RuleRef | None,
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
    begun = time.perf_counter()
    came = str(Reason.PROVIDER_ERROR)
    try:
        verdict = provider.evaluate(request, asking.seconds_left(), asking.istio)
        came = "allowed" if verdict.effect is Effect.ALLOW else "denied"
    except ProviderError as exc:
        came = str(exc.reason)
        return _without_verdict(name, exc, terms.terms_of(name), matched)
    finally:
        asking.observe(name, came, time.perf_counter() - begun)
    return _from_verdict(name, verdict, matched)


def _without_verdict(
    name: str, exc: ProviderError, terms: ProviderTerms, matched: RuleRef | None
) -> Decision:
    why = "was out of time" if isinstance(exc, ProviderTimeout) else "gave no verdict"
    if not terms.fails_open or isinstance(exc, UnfitRequest):
        return denial(
            exc.reason,
            Layer.CUSTOM,
            rule=matched,
            detail=f"provider `{name}` {why}: {exc}",
            http_status=terms.error_status,
        )
    return Decision(
        effect=Effect.ALLOW,
        reason=exc.reason,
        layer=Layer.CUSTOM,
        rule=matched,
        detail=f"provider `{name}` {why} and fails open: {exc}",
        failed_open=(FailedOpen(provider=name, reason=exc.reason, error=str(exc)),),
    )


def _from_verdict(name: str, verdict: ProviderVerdict, matched: RuleRef | None) -> Decision:
    allowed = verdict.effect is Effect.ALLOW
    said = f": {verdict.detail}" if verdict.detail else ""
    return Decision(
        effect=verdict.effect,
        reason=Reason.CUSTOM_ALLOWED if allowed else Reason.CUSTOM_DENIED,
        layer=Layer.CUSTOM,
        rule=matched,
        detail=f"provider `{name}` {'allowed' if allowed else 'denied'}{said}",
        http_status=200 if allowed else verdict.http_status,
        body="" if allowed else verdict.body or DENIED_BODY,
        mutations=in_sequence(Mutations(), verdict.mutations) if allowed else verdict.mutations,
    )


def _both(first: Decision, second: Decision) -> Decision:
    """Return the allow of two providers, one behind the other."""
    return replace(
        second,
        mutations=in_sequence(first.mutations, second.mutations),
        failed_open=first.failed_open + second.failed_open,
        detail=f"{first.detail}; {second.detail}",
    )


def _denied_after(earlier: Decision, refusal: Decision) -> Decision:
    """Return a denial behind providers that allowed."""
    return replace(
        refusal,
        mutations=on_denial(earlier.mutations, refusal.mutations),
        failed_open=earlier.failed_open + refusal.failed_open,
    )
