"""Recorded requests decided again under candidate policies, and how the answers differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Protocol
from urllib.parse import unquote

from dryrun.past import NotReplayable, Past, deciding_rule, read_past
from dryrun.worlds import closing, opening
from identity.jwt_rule import JwtRule
from policies.decision import Decision, Effect, Layer, Provider, ProviderVerdict, Reason
from policies.needs import keys_of
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies

_AUTHORIZATION: Final = "authorization"
# Answers that no policy has a part in.
_WITHOUT_POLICIES: Final = frozenset(
    {
        Reason.REQUEST_MALFORMED,
        Reason.PEER_CERTIFICATE_UNREADABLE,
        Reason.PEER_CERTIFICATE_MISMATCH,
        Reason.PEER_CERTIFICATE_UNTRUSTED,
        Reason.PEER_FORWARDED_INVALID,
        Reason.XFCC_INVALID,
        Reason.WORKLOAD_UNKNOWN,
    }
)


class Judge(Protocol):
    """The walk from the peer to the ALLOW policies, on a request that is known.

    `seen` is the request as the DENY and ALLOW policies see it, `refusal` the answer to a
    token that does not hold. `default_provider` is asked where no policy names another.
    """

    def __call__(  # noqa: D102 - the protocol says it
        self,
        policies: WorkloadPolicies,
        request: Request,
        *,
        seen: Request,
        refusal: Decision | None,
        providers: Mapping[str, Provider],
        default_provider: str,
    ) -> Decision: ...


class NewProvider(Protocol):
    """The candidate's Rego for a provider."""

    @property
    def revision(self) -> str:
        """The digest of its policy."""
        ...

    def provider_for(self, past: Past, /) -> Provider:
        """Return what evaluates a past request.

        Raises:
            NotReplayable: it looks at what the record does not hold.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSet:
    """What requests are decided by again. `policies_for` returns what applies to a workload.

    `any_provider` is the Rego of providers that have none of their own in `providers`.
    """

    policies_for: Callable[[Workload, bool], WorkloadPolicies]
    judge: Judge
    providers: Mapping[str, NewProvider] = field(default_factory=dict)
    any_provider: NewProvider | None = None
    needs_service: bool = False
    takes_services: bool = False


class Change(StrEnum):
    """How an answer changes."""

    SAME = "same"
    NEW_DENY = "new_deny"
    NEW_ALLOW = "new_allow"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One request decided again. `decision` is None where there is none, `why` says why then."""

    document: Mapping[str, Any]
    change: Change
    decision: Decision | None = None
    why: str = ""

    @property
    def new_rule(self) -> str:
        """The rule that decides now as people write it, or the reason."""
        if self.decision is None:
            return ""
        return self.decision.rule.name if self.decision.rule else str(self.decision.reason)

    @property
    def old_rule(self) -> str:
        """The rule that decided then, or the reason."""
        return deciding_rule(self.document["decision"])


@dataclass(frozen=True, slots=True)
class _Applied:
    """The policies of a workload, and the keys that their conditions look at."""

    policies: WorkloadPolicies
    custom_keys: frozenset[str]
    rule_keys: frozenset[str]


class Replayer:
    """Decides recorded requests again; not for several threads at once."""

    def __init__(self, candidate: CandidateSet) -> None:
        """Decide by `candidate`."""
        self._candidate = candidate
        self._applied: dict[tuple[str, frozenset[tuple[str, str]], Any, bool], _Applied] = {}
        self._bent: dict[tuple[int, frozenset[str], frozenset[str]], tuple[Any, Any]] = {}

    def replay(self, documents: Iterable[Mapping[str, Any]]) -> Iterator[Replayed]:
        """Yield what becomes of each recorded decision, in order."""
        for document in documents:
            try:
                yield self._replayed(document)
            except NotReplayable as exc:
                yield Replayed(document=document, change=Change.UNKNOWN, why=str(exc))

    def _replayed(self, document: Mapping[str, Any]) -> Replayed:
        recorded = document["decision"]
        if "replay" not in document and recorded["reason"] in _WITHOUT_POLICIES:
            return self._untouched(document, recorded["reason"])
        if recorded["layer"] == Layer.INTERNAL:
            raise NotReplayable("the authorizer itself failed then")
        past = read_past(document)
        decision = self._decide(past)
        change = Change.SAME
        if decision.effect is not past.effect:
            change = Change.NEW_ALLOW if decision.is_allowed else Change.NEW_DENY
        return Replayed(document=document, change=change, decision=decision)

    def _untouched(self, document: Mapping[str, Any], reason: str) -> Replayed:
        """Return that nothing changes: the request never came to a policy."""
        asks = self._candidate.takes_services and not self._candidate.needs_service
        if reason == Reason.WORKLOAD_UNKNOWN and asks:
            raise NotReplayable("nothing names the workload that was asked about")
        return Replayed(document=document, change=Change.SAME)

    def _decide(self, past: Past) -> Decision:
        workload = past.request.workload
        if workload is None:
            raise NotReplayable("the record names no workload")
        if self._candidate.needs_service and workload.service is None:
            return Decision(effect=Effect.DENY, reason=Reason.WORKLOAD_UNKNOWN, layer=Layer.REQUEST)
        applied = self._applied_to(workload, is_http=past.request.is_http)
        if past.hidden.is_peer_hidden and applied.policies.peer.needs_identity:
            raise NotReplayable("the record does not hold the peer's name")
        request, seen, refusal, doubtful = _with_token(past, applied.policies)
        custom = frozenset(
            key for key in applied.custom_keys if not past.knows(key, is_custom=True)
        )
        rules = frozenset(
            key
            for key in applied.rule_keys
            if key in doubtful or not past.knows(key, is_custom=False)
        )
        providers = self._answers(past, applied.policies)

        def judged(policies: WorkloadPolicies) -> Decision:
            return self._candidate.judge(
                policies,
                request,
                seen=seen,
                refusal=refusal,
                providers=providers,
                default_provider=past.default_provider,
            )

        if len(applied.policies.custom) > 1 and (past.asked or seen is not request):
            # What a provider changed, the next one saw; a denial tells of no change.
            custom |= applied.custom_keys
        if not (custom or rules):
            return judged(applied.policies)
        closed, opened = self._ends(applied.policies, custom, rules)
        kept_out, let_in = judged(closed), judged(opened)
        if kept_out.effect is not let_in.effect:
            listed = ", ".join(f"`{key}`" for key in sorted(custom | rules))
            raise NotReplayable(f"the record does not hold {listed}")
        return kept_out

    def _applied_to(self, workload: Workload, *, is_http: bool) -> _Applied:
        key = (workload.namespace, frozenset(workload.labels.items()), workload.service, is_http)
        found = self._applied.get(key)
        if found is None:
            policies = self._candidate.policies_for(workload, is_http)
            named = [policy for index in policies.custom.values() for policy in index]
            found = _Applied(policies, keys_of(named), keys_of([*policies.deny, *policies.allow]))
            self._applied[key] = found
        return found

    def _ends(
        self, policies: WorkloadPolicies, custom: frozenset[str], rules: frozenset[str]
    ) -> tuple[WorkloadPolicies, WorkloadPolicies]:
        key = (id(policies), custom, rules)
        if key not in self._bent:
            ends = closing(policies, custom, rules), opening(policies, custom, rules)
            self._bent[key] = ends
        return self._bent[key]

    def _answers(self, past: Past, policies: WorkloadPolicies) -> Mapping[str, Provider]:
        """Return what answers for each provider that could be asked."""
        names = [*policies.custom]
        if past.default_provider:
            names.append(past.default_provider)
        return {name: answer for name in names if (answer := self._answer(name, past)) is not None}

    def _answer(self, name: str, past: Past) -> Provider | None:
        given = self._candidate.providers.get(name) or self._candidate.any_provider
        # Of the same policy, the answer that was given then stands.
        if given is not None and past.asked.get(name) != given.revision:
            return _Late(given, past)
        if name in past.asked:
            return _Recorded(_recorded_effect(name, past))
        return None if past.reason == Reason.PROVIDER_UNKNOWN else _NeverAsked(name)


@dataclass(frozen=True, slots=True)
class _Recorded:
    """Answers as the provider did."""

    effect: Effect

    def evaluate(self, request: Request, *_asking: object) -> ProviderVerdict:
        return ProviderVerdict(effect=self.effect)


@dataclass(frozen=True, slots=True)
class _NeverAsked:
    """Stands for a provider whose answer nobody knows."""

    name: str

    def evaluate(self, request: Request, *_asking: object) -> ProviderVerdict:
        raise NotReplayable(f"the provider `{self.name}` was not asked then")


@dataclass(frozen=True, slots=True)
class _Late:
    """Asks the candidate's Rego, once it is known that it is asked."""

    given: NewProvider
    past: Past

    def evaluate(self, request: Request, *asking: Any) -> ProviderVerdict:
        return self.given.provider_for(self.past).evaluate(request, *asking)


def _recorded_effect(name: str, past: Past) -> Effect:
    """Return a provider's answer: of those that were asked, only the last one can have denied."""
    is_last = name == list(past.asked)[-1]
    was_denied = past.layer == Layer.CUSTOM and past.effect is Effect.DENY
    own = past.reason not in (Reason.PROVIDER_UNKNOWN, Reason.SEVERAL_PROVIDERS)
    return Effect.DENY if is_last and was_denied and own else Effect.ALLOW


def _with_token(
    past: Past, policies: WorkloadPolicies
) -> tuple[Request, Request, Decision | None, frozenset[str]]:
    """Return the request as CUSTOM and as the other policies see it, and the token's refusal.

    The last is what the others look at and nobody knows: headers that the verification under
    other rules would have left otherwise.
    """
    request, seen, rules = past.request, past.seen, policies.jwt_rules
    if past.token_rules == policies.token_digest:
        refusal = _refusal(past) if past.token == "refused" else None  # noqa: S105 - a state
        return request, seen, refusal, frozenset()
    if not rules:
        # "No rules, no processing": tokens are neither believed nor refused.
        unknown = frozenset(key for key in _header_keys(policies) if seen is not request)
        return _without_claims(request), _without_claims(seen), None, unknown
    if past.token == "none" and not _could_hold_token(past, rules):  # noqa: S105 - a state
        return request, seen, None, frozenset()
    issuer = request.claims.issuer if request.claims else None
    if past.token_rule and policies.issuer_digests.get(issuer or "") == past.token_rule:
        return request, seen, None, frozenset()
    raise NotReplayable("the rules for tokens changed, and tokens are not recorded")


def _without_claims(request: Request) -> Request:
    return replace(request, claims=None)


def _header_keys(policies: WorkloadPolicies) -> frozenset[str]:
    keys = keys_of([*policies.deny, *policies.allow])
    return frozenset(key for key in keys if key.startswith("request.headers"))


def _could_hold_token(past: Past, rules: Iterable[JwtRule]) -> bool:
    """Whether the request may have carried a token where these rules look for one."""
    names = past.request.headers.keys() | past.hidden.headers
    for rule in rules:
        looked_in = {header.name.lower() for header in rule.from_headers}
        if rule.from_cookies:
            looked_in.add("cookie")
        is_usual = not (rule.from_headers or rule.from_params or rule.from_cookies)
        if is_usual:
            looked_in.add(_AUTHORIZATION)
        if looked_in & names:
            return True
        # RFC 6750 section 2.3 names the parameter; Envoy looks there where nothing else is said.
        parameters = ("access_token",) if is_usual else rule.from_params
        query = unquote(past.request.path.partition("?")[2])
        if any(f"{name}=" in query for name in parameters):
            return True
    return False


def _refusal(past: Past) -> Decision:
    return Decision(
        effect=Effect.DENY,
        reason=Reason.TOKEN_INVALID,
        layer=Layer.REQUEST_AUTHENTICATION,
        detail="the token was refused then",
        http_status=past.http_status,
    )
