"""The walk of one request: workload, token, CUSTOM, DENY, ALLOW, shadow. Values in, values out.

The server, `policy test` and the explain output all take this one walk; there is
no second implementation. It reads the serving state it is given, once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from authz.custom import Asking, Observe
from authz.decide import decide_rules, judge
from authz.denial import denial
from authz.mutations import merge_mutations
from authz.phases import EndOfPhase, Phase, look_away_from
from authz.selection import DEFAULT_CARRIERS, Selection
from authz.serving_state import ServingState
from authz.settings import IdentityHeaderSettings
from authz.token_stage import Tokens
from authz.workload import resolve_workload
from dryrun.istio_metadata import istio_metadata
from dryrun.shadow import shadow_verdicts
from identity.jwt_rule import JwtRule
from identity.jwt_verify import Verify, verify_token
from identity.peer_finding import PeerRules, find_peer
from identity.request_authentication import KeyLookup
from identity.svid_memory import SvidMemory
from identity.trust_bundle import BundleSet
from policies.decision import NO_NAMESPACE, Decision, Layer, Reason, ShadowVerdict
from policies.http_path import normalize_path
from policies.mesh import PathNormalization
from policies.path_view import PathView
from policies.request import Request, Workload
from policies.snapshot import WorkloadPolicies

_ANY = Workload(namespace="")
_NO_BUNDLES = BundleSet()


SecondsLeft = Callable[[], float | None]
"""Returns what is left of the caller's time, None when nobody waits."""


def _nobody_waits() -> float | None:
    return None


def _no_bundles() -> BundleSet:
    return _NO_BUNDLES


def _ignore(rule: JwtRule) -> bool:
    """Take no notice of a token signed with an unknown key."""
    return False


def look_away(name: str, came: str, seconds: float) -> None:
    """Take no notice of what a provider answered."""


class CandidateVerdict(Protocol):
    """What a candidate set says of a request, beside the enforced decision."""

    def __call__(
        self, request: Request, enforced: Decision, seconds_left: SecondsLeft, /
    ) -> ShadowVerdict:
        """Return the verdict; must never raise, nor take longer than its budget."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a walk needs besides the request and the state.

    `now` is the clock tokens are judged by, `wall_clock` the one records are
    dated with; both return epoch seconds and differ in tests only.
    `on_unknown_key` hears of a token whose key the issuer's set did not hold;
    `verify_token` judges a token, and may remember its verdicts. `bundles` returns
    the trust bundles that hold now; ask it once in a walk. `peer_rules` say what
    counts as a proof of who asks; `svids` remembers verified certificates. `observe`
    hears of every provider that was asked. `candidate` is asked once the answer is made.
    """

    keys: KeyLookup
    now: Callable[[], float] = time.time
    wall_clock: Callable[[], float] = time.time
    on_unknown_key: Callable[[JwtRule], bool] = _ignore
    verify_token: Verify = verify_token
    static_workload: Workload | None = None
    headers: IdentityHeaderSettings = IdentityHeaderSettings()
    bundles: Callable[[], BundleSet] = _no_bundles
    peer_rules: PeerRules = PeerRules()
    svids: SvidMemory = field(default_factory=SvidMemory)
    observe: Observe = look_away
    candidate: CandidateVerdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a decision by policies rests on, kept for the record.

    `paths` tells what the policies see of a path, `seen` is the request as the DENY and ALLOW
    policies saw it, `asked` are the providers that were asked, in order, each with the revision
    of its policy. `is_token_moved`: a provider left other tokens than came. `path_level` is what
    was done to the path, `custom_seen` what the policies of a provider saw behind another one.
    """

    policies: WorkloadPolicies
    paths: PathView
    seen: Request
    is_token_refused: bool = False
    is_token_moved: bool = False
    asked: tuple[tuple[str, str], ...] = ()
    default_provider: str = ""
    path_level: PathNormalization = PathNormalization.AS_IS
    custom_seen: Mapping[str, Request] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of a walk: the request with who asked, the answer and the shadows.

    `token_carriers` names every header, parameter and cookie a token was looked
    for in, so that the record can mask them. `istio_shadow` is what Istio's own filters
    would have written of the dry-run policies. `basis` is None where no policy was asked.
    """

    request: Request
    decision: Decision
    shadow: tuple[ShadowVerdict, ...] = ()
    istio_shadow: Mapping[str, str] = field(default_factory=dict)
    basis: Basis | None = None
    token_carriers: frozenset[str] = frozenset(DEFAULT_CARRIERS)
    xfcc: str = ""


def walk(
    request: Request,
    state: ServingState,
    around: Surroundings,
    seconds_left: SecondsLeft = _nobody_waits,
    end: EndOfPhase = look_away_from,
) -> Outcome:
    """Return the outcome for a decoded request; one without evidence keeps the peer it has.

    `end` is told of each phase that ends.
    """
    if request.peer_evidence is None:
        return _shadowed(request, state, around, seconds_left, end)
    at = datetime.fromtimestamp(around.now(), UTC)
    found = find_peer(request.peer_evidence, around.peer_rules, around.bundles(), at, around.svids)
    end(Phase.PEER)
    if found.fault is not None:
        reason = Reason(found.fault.value)
        refused = denial(reason, Layer.PEER_AUTHENTICATION, detail=found.detail)
        return Outcome(request=request, decision=refused, xfcc=found.xfcc)
    outcome = _shadowed(request.altered(peer=found.peer), state, around, seconds_left, end)
    return replace(outcome, xfcc=found.xfcc) if found.xfcc else outcome


def _shadowed(
    request: Request,
    state: ServingState,
    around: Surroundings,
    seconds_left: SecondsLeft,
    end: EndOfPhase,
) -> Outcome:
    """Return the outcome with the candidate's verdict, if there is a candidate."""
    outcome = walk_with_peer(request, state, around, seconds_left, end)
    if around.candidate is None:
        return outcome
    verdict = around.candidate(request, outcome.decision, seconds_left)
    end(Phase.SHADOW)
    return replace(outcome, shadow=(*outcome.shadow, verdict))


def walk_with_peer(
    request: Request,
    state: ServingState,
    around: Surroundings,
    seconds_left: SecondsLeft,
    end: EndOfPhase = look_away_from,
) -> Outcome:
    """Return the outcome for a request whose peer is known; no candidate is asked."""
    level = state.snapshot.mesh.path_normalization
    path = normalize_path(request.path, level)
    if path is None:
        # Envoy answers 400 itself; nothing of the path can be told for sure.
        refused = denial(Reason.REQUEST_MALFORMED, Layer.REQUEST, detail="the path is not one")
        return Outcome(request=request, decision=replace(refused, http_status=400))
    request = _with_path(request, path)
    workload = resolve_workload(request, around.static_workload, around.peer_rules.mappings)
    missing = _missing(workload, state)
    if missing:
        refused = denial(Reason.WORKLOAD_UNKNOWN, Layer.REQUEST, detail=missing)
        return Outcome(request=request, decision=refused)
    selection = state.selection(workload or _ANY, is_http=request.is_http)
    request = request.altered(workload=workload)
    return _judged(request, selection, state, around, seconds_left, end)


def _missing(workload: Workload | None, state: ServingState) -> str:
    """Return what nobody said of the workload and policies ask, or nothing."""
    if workload is None and state.needs_workload:
        return NO_NAMESPACE
    if workload is not None and workload.service is None and state.needs_service:
        return "policies hang on services, and nothing names the service that is asked for"
    if workload is not None and state.snapshot.lacks_labels(workload):
        return (
            "policies hang on labels, and nothing tells those of the workload that is asked about"
        )
    return ""


def _judged(
    request: Request,
    selection: Selection,
    state: ServingState,
    around: Surroundings,
    seconds_left: SecondsLeft,
    end: EndOfPhase,
) -> Outcome:
    """Return the outcome of token, policies and providers for a request of a known workload."""
    policies = selection.policies
    tokens = Tokens(request, selection, around)
    token = tokens.verify(request)
    end(Phase.TOKEN)
    request = tokens.claimed(request)
    asked: list[tuple[str, str]] = []
    custom_seen: dict[str, Request] = {}

    def observe(name: str, came: str, seconds: float) -> None:
        asked.append((name, state.provider_revisions.get(name, "")))
        around.observe(name, came, seconds)

    asking = Asking(seconds_left=seconds_left, observe=observe, saw=custom_seen.__setitem__)
    judged = judge(
        policies, request, state.providers, token=token, terms=state.terms, asking=asking
    )
    decision = judged.decision
    # A provider may have left another token than it found.
    authentication = tokens.authentication
    failure = authentication.failure
    request = tokens.claimed(request)
    end(Phase.POLICIES)
    # The shadows are set beside what policies decided, before identity is written into it.
    shadow = shadow_verdicts(policies, judged.request, decision, decide_rules)
    istio_shadow = istio_metadata(policies.dry_run, judged.request, decision)
    end(Phase.SHADOW)
    # A connection has no headers to carry anything upstream.
    if failure is None and decision.is_allowed and request.is_http:
        mutations = merge_mutations(decision.mutations, authentication, request, around.headers)
        decision = replace(decision, mutations=mutations)
    return Outcome(
        request=request,
        decision=decision,
        shadow=shadow,
        istio_shadow=istio_shadow,
        basis=Basis(
            policies=policies,
            paths=selection.paths,
            seen=judged.request,
            is_token_refused=failure is not None,
            is_token_moved=tokens.is_moved,
            asked=tuple(asked),
            default_provider=state.terms.default,
            path_level=state.snapshot.mesh.path_normalization,
            custom_seen=custom_seen,
        ),
        token_carriers=selection.token_carriers,
    )


def _with_path(request: Request, path: str) -> Request:
    """Return the request with a normalized path, wherever it shows."""
    if path == request.path:
        return request
    headers = dict(request.headers)
    if ":path" in headers:
        headers[":path"] = (path,)
    return request.altered(path=path, headers=headers)
