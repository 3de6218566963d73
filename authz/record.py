"""A decision to an audit record: the one place where policies' words become the record's.

What a record may hold is chosen and masked in `audit`; here everything is handed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from audit.record import (
    AuditRecord,
    DecisionFacts,
    DestinationFacts,
    FailedOpenFacts,
    PeerFacts,
    RequestFacts,
    ShadowFacts,
    SubjectFacts,
)
from audit.replay_facts import ReplayFacts
from audit.trace import TraceFacts
from authz.walk import Basis, Outcome
from policies.decision import Decision, RuleRef, ShadowVerdict
from policies.mesh import PathNormalization
from policies.request import Request

_MEMORABLE: Final = 256  # BUDGET: of what a decision says; what is longer is made each time


def record_decision(  # noqa: PLR0913 - keyword-only facts of one decision
    outcome: Outcome,
    *,
    decision_id: str,
    revision: str,
    decided_at: float,
    duration: float,
    phases: Mapping[str, int] = MappingProxyType({}),
    trace: TraceFacts | None = None,
) -> AuditRecord:
    """Return the record; times are epoch seconds, `duration` is seconds.

    `phases` is how it is split, in microseconds.
    """
    request = outcome.request
    return AuditRecord(
        decision_id=decision_id,
        received_at=request.received_at or decided_at,
        decided_at=decided_at,
        revision=revision,
        request=_request_facts(request, outcome.token_carriers),
        decision=_decision_facts(outcome.decision),
        peer=_peer_facts(request),
        subject=_subject_facts(request),
        destination=_destination_facts(request),
        source_address=request.source_ip,
        xfcc=outcome.xfcc,
        audited_by=tuple(ref.name for ref in outcome.decision.audited_by),
        shadow=tuple(_shadow_facts(verdict) for verdict in outcome.shadow),
        failed_open=tuple(
            FailedOpenFacts(provider=each.provider, reason=each.reason, error=each.error)
            for each in outcome.decision.failed_open
        ),
        replay=None if outcome.basis is None else _replay_facts(request, outcome.basis),
        trace=trace,
        duration_microseconds=max(0, int(duration * 1e6)),
        phases=phases,
    )


def _request_facts(request: Request, token_carriers: frozenset[str]) -> RequestFacts:
    return RequestFacts(
        method=request.method,
        host=request.host,
        path=request.path,
        protocol=request.protocol,
        id=request.stream_id,
        size=request.size,
        headers=request.headers,
        token_carriers=token_carriers,
    )


def _decision_facts(decision: Decision) -> DecisionFacts:
    is_short = len(decision.detail) + len(decision.near_miss) <= _MEMORABLE
    make = _known_facts if is_short else _facts_of
    rule = decision.rule
    # WHY the fields of the rule and not the rule: its hash is a call of the interpreter's.
    return make(
        decision.effect,
        decision.reason,
        decision.layer,
        decision.http_status,
        (rule.namespace, rule.policy, rule.rule, rule.file, rule.line) if rule else None,
        decision.detail,
        decision.near_miss,
    )


def _facts_of(  # noqa: PLR0913, PLR0917 - what a decision is known by
    effect: str,
    reason: str,
    layer: str,
    http_status: int,
    rule: tuple[str, str, int | None, str, int] | None,
    detail: str,
    near_miss: str,
) -> DecisionFacts:
    namespace, policy, index, file, line = rule or ("", "", None, "", 0)
    ref = RuleRef(namespace=namespace, policy=policy, rule=index, file=file, line=line)
    return DecisionFacts(
        effect=effect,
        reason=reason,
        layer=layer,
        http_status=http_status,
        policy=f"{namespace}/{policy}" if rule else None,
        rule=index,
        place=ref.place,
        detail=detail,
        near_miss=near_miss,
    )


# WHY: what rules say is said again and again, and one object for all leaves less to wait.
_known_facts = lru_cache(maxsize=1024)(_facts_of)  # BUDGET: the rules of a busy node


def _peer_facts(request: Request) -> PeerFacts | None:
    if request.peer is None:
        return None
    peer = request.peer
    mapped = peer.reading.workload if peer.reading else None
    facts = PeerFacts(
        principal=peer.principal,
        spiffe_id=str(peer.spiffe_id) if peer.spiffe_id else None,
        proof=peer.proof.value,
    )
    if mapped is None:
        return facts
    return replace(
        facts,
        mapping=mapped.mapping,
        namespace=mapped.namespace,
        service_account=mapped.service_account,
        labels=mapped.labels,
    )


def _subject_facts(request: Request) -> SubjectFacts | None:
    if request.claims is None:
        return None
    return SubjectFacts(
        issuer=request.claims.issuer, sub=request.claims.subject, claims=request.claims.payload
    )


def _destination_facts(request: Request) -> DestinationFacts | None:
    if request.workload is None:
        return None
    return DestinationFacts(
        namespace=request.workload.namespace,
        service_account=request.workload.service_account,
        labels=request.workload.labels,
        port=request.destination_port,
    )


def _shadow_facts(verdict: ShadowVerdict) -> ShadowFacts:
    return ShadowFacts(
        policy=verdict.policy,
        action=verdict.action,
        matched=verdict.matched.name if verdict.matched else None,
        effect=verdict.effect,
        outcome=verdict.outcome,
        detail=verdict.detail,
        would=None if verdict.would is None else _decision_facts(verdict.would),
        revision=verdict.revision,
        rules=verdict.rules,
    )


def _replay_facts(request: Request, basis: Basis) -> ReplayFacts:
    needs, peer, level = basis.policies.needs, request.peer, basis.path_level
    reading = peer.reading if peer else None
    service = request.workload.service if request.workload else None
    return ReplayFacts(
        is_http=request.is_http,
        scheme=request.scheme,
        destination_address=request.destination_ip,
        sni=None if request.sni_unknown else request.sni,
        headers_merged=request.headers_merged,
        rules_headers=basis.seen.headers,
        looked_at_headers=needs.headers,
        looked_at_claims=needs.claims,
        looked_at_metadata=needs.metadata,
        metadata=request.filter_metadata,
        peer_names=peer.names if peer and len(peer.names) > 1 else (),
        peer_sure=reading.sure if reading else None,
        peer_possible=reading.possible if reading else (),
        peer_over_mtls=peer is None or peer.over_mtls,
        labels_untold=request.workload is not None and not request.workload.has_told_labels,
        service=(service.kind, service.namespace, service.name) if service else None,
        token=_token_state(request, basis),
        token_rules=basis.policies.token_digest,
        token_rule=_token_rule(request, basis),
        is_token_moved=basis.is_token_moved,
        asked=basis.asked,
        default_provider=basis.default_provider,
        paths="" if level is PathNormalization.AS_IS else level.value,
    )


def _token_state(request: Request, basis: Basis) -> str:
    if basis.is_token_refused:
        return "refused"
    return "none" if request.claims is None else "verified"


def _token_rule(request: Request, basis: Basis) -> str:
    """Return the digest of the one rule of the token's issuer, or nothing."""
    if request.claims is None:
        return ""
    return basis.policies.issuer_digests.get(request.claims.issuer or "", "")
