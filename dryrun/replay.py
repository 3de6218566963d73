"""Recorded requests decided again under candidate policies, and how the answers differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from dryrun.past import TARGETS, NotReplayable, Past, deciding_rule, read_past
from dryrun.past_path import is_refused_again, normalized
from dryrun.past_providers import Answers, NewProvider
from dryrun.past_tokens import with_token
from dryrun.worlds import closing, opening
from policies.decision import NO_NAMESPACE, Decision, Effect, Layer, Provider, Reason
from policies.mesh import PathNormalization
from policies.needs import header_of, keys_of
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies

_UNTOLD: Final = "(cannot be told)"
# Answers that no policy has a part in.
_WITHOUT_POLICIES: Final = frozenset(
    {
        Reason.REQUEST_MALFORMED,
        Reason.PEER_CERTIFICATE_UNREADABLE,
        Reason.PEER_CERTIFICATE_MISMATCH,
        Reason.PEER_CERTIFICATE_UNTRUSTED,
        Reason.PEER_FORWARDED_INVALID,
        Reason.PEER_DENIED,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSet:
    """What requests are decided by again. `policies_for` returns what applies to a workload.

    `any_provider` is the Rego of providers that have none of their own in `providers`.
    `lacks_labels` says whether a workload's labels would have to be told. `revision` is that of
    all of it, `level` what is done to paths.
    """

    policies_for: Callable[[Workload, bool], WorkloadPolicies]
    judge: Judge
    providers: Mapping[str, NewProvider] = field(default_factory=dict)
    any_provider: NewProvider | None = None
    needs_service: bool = False
    lacks_labels: Callable[[Workload], bool] = lambda workload: False
    revision: str = ""
    level: PathNormalization = PathNormalization.AS_IS


class Change(StrEnum):
    """How an answer changes."""

    SAME = "same"
    NEW_DENY = "new_deny"
    NEW_ALLOW = "new_allow"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """One request decided again. `decision` is None where there is none, `why` says why then.

    With `is_rule_open` it is the effect that is sure, and not by which rule or why.
    """

    document: Mapping[str, Any]
    change: Change
    decision: Decision | None = None
    why: str = ""
    is_rule_open: bool = False

    @property
    def new_rule(self) -> str:
        """The rule that decides now as people write it, or the reason."""
        if self.is_rule_open:
            return _UNTOLD
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


@dataclass(frozen=True, slots=True)
class _Unknown:
    """The keys of conditions that cannot be tried: those of CUSTOM policies, and of the others."""

    custom: frozenset[str]
    rules: frozenset[str]

    @property
    def keys(self) -> frozenset[str]:
        """All of them."""
        return self.custom | self.rules


@dataclass(frozen=True, slots=True)
class _Judged:
    """A decision, and whether another rule, or another reason, may come to it as well."""

    decision: Decision
    is_rule_open: bool = False


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
        found = self._decide(past)
        decision = found.decision
        change = Change.SAME
        if decision.effect is not past.effect:
            change = Change.NEW_ALLOW if decision.is_allowed else Change.NEW_DENY
        return Replayed(
            document=document, change=change, decision=decision, is_rule_open=found.is_rule_open
        )

    def _untouched(self, document: Mapping[str, Any], reason: str) -> Replayed:
        """Return that nothing changes: the request never came to a policy."""
        # Without a namespace no set has an answer; what else was missing another may not need.
        is_nowhere = document["decision"]["detail"] == NO_NAMESPACE
        is_same_set = document["revision"] == self._candidate.revision
        if reason == Reason.WORKLOAD_UNKNOWN and not (is_nowhere or is_same_set):
            raise NotReplayable("nothing names the workload that was asked about")
        is_path = reason == Reason.REQUEST_MALFORMED
        if is_path and not is_refused_again(document["request"]["path"], self._candidate.level):
            raise NotReplayable("the path was refused then")
        return Replayed(document=document, change=Change.SAME)

    def _decide(self, past: Past) -> _Judged:
        workload = past.request.workload
        if workload is None:
            raise NotReplayable("the record names no workload")
        found = normalized(past, self._candidate.level)
        if found is None:
            # Envoy answers 400 itself, see the walk.
            return _Judged(_refused(Reason.REQUEST_MALFORMED))
        lacks_service = self._candidate.needs_service and workload.service is None
        if lacks_service or self._candidate.lacks_labels(workload):
            return _Judged(_refused(Reason.WORKLOAD_UNKNOWN))
        applied = self._applied_to(workload, is_http=past.request.is_http)
        if past.hidden.is_peer_hidden and applied.policies.peer.needs_identity:
            raise NotReplayable("the record does not hold the peer's name")
        past, refusal = with_token(found, applied.policies)
        unknown = self._unknown(past, applied)
        judged, is_as_then = self._judged(past, applied.policies, refusal, unknown)
        if is_as_then or _is_before_rules(judged):
            return judged
        if past.is_token_moved:
            raise NotReplayable("a provider changed the token then, and would not be asked so now")
        # What a provider made of headers then does not hold where it is not asked, or asked anew.
        again = _Unknown(unknown.custom, unknown.rules | _written_then(past, applied.rule_keys))
        if again == unknown:
            return judged
        return self._judged(past, applied.policies, refusal, again)[0]

    def _unknown(self, past: Past, applied: _Applied) -> _Unknown:
        custom = frozenset(
            key for key in applied.custom_keys if not past.knows(key, is_custom=True)
        )
        rules = frozenset(key for key in applied.rule_keys if not past.knows(key, is_custom=False))
        if len(applied.policies.custom) > 1 and (past.asked or past.seen is not past.request):
            # What a provider changed, the next one saw; a denial tells of no change.
            custom |= applied.custom_keys
        return _Unknown(custom, rules)

    def _judged(
        self,
        past: Past,
        policies: WorkloadPolicies,
        refusal: Decision | None,
        unknown: _Unknown,
    ) -> tuple[_Judged, bool]:
        """Return the decision, and whether each provider was asked that was, and as it was."""
        answers = Answers(
            past,
            policies,
            self._candidate.providers,
            self._candidate.any_provider,
            is_same_set=past.revision == self._candidate.revision,
            is_istio_known=not unknown.rules,
        )

        def decided(bent: WorkloadPolicies) -> Decision:
            answers.begin()
            return self._candidate.judge(
                bent,
                past.request,
                seen=past.seen,
                refusal=refusal,
                providers=answers.providers,
                default_provider=past.default_provider,
            )

        if not unknown.keys:
            return _Judged(decided(policies)), answers.is_as_then
        closed, opened = self._ends(policies, unknown.custom, unknown.rules)
        kept_out, is_as_then = decided(closed), answers.is_as_then
        let_in = decided(opened)
        if kept_out.effect is not let_in.effect:
            listed = ", ".join(f"`{key}`" for key in sorted(unknown.keys))
            raise NotReplayable(f"the record does not hold {listed}")
        # INVARIANT: what decides at both ends decides everywhere between them.
        is_open = (kept_out.rule, kept_out.reason) != (let_in.rule, let_in.reason)
        return _Judged(kept_out, is_open), is_as_then and answers.is_as_then

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


def _written_then(past: Past, keys: frozenset[str]) -> frozenset[str]:
    """Return the keys of conditions on what providers may have changed then."""
    if past.layer == Layer.CUSTOM and past.effect is Effect.DENY:
        # A denial tells nothing of what those before it changed.
        return frozenset(key for key in keys if header_of(key) is not None)
    return frozenset(
        key
        for key in keys
        if header_of(key) in past.changed or not past.changed.isdisjoint(TARGETS.get(key, ()))
    )


def _is_before_rules(judged: _Judged) -> bool:
    """Whether a request is denied before anybody looks at what providers made of it."""
    decision = judged.decision
    layers = (Layer.PEER_AUTHENTICATION, Layer.CUSTOM)
    return not decision.is_allowed and decision.layer in layers and not judged.is_rule_open


def _refused(reason: Reason) -> Decision:
    return Decision(effect=Effect.DENY, reason=reason, layer=Layer.REQUEST)
