"""A decision to an audit record: the one place where policies' words become the record's.

What a record may hold is chosen and masked in `audit`; here everything is handed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

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
from policies.decision import Decision, ShadowVerdict
from policies.request import Request


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
    rule = decision.rule
    return DecisionFacts(
        effect=decision.effect,
        reason=decision.reason,
        layer=decision.layer,
        http_status=decision.http_status,
        policy=f"{rule.namespace}/{rule.policy}" if rule else None,
        rule=rule.rule if rule else None,
        place=rule.place if rule else "",
        detail=decision.detail,
        near_miss=decision.near_miss,
    )


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
    needs, peer = basis.policies.needs, request.peer
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
        service=(service.kind, service.namespace, service.name) if service else None,
        token=_token_state(request, basis),
        token_rules=basis.policies.token_digest,
        token_rule=_token_rule(request, basis),
        asked=basis.asked,
        default_provider=basis.default_provider,
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
