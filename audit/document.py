"""The written form of a record, schema version 1: JSON objects, selected and masked.

These types are the schema: `audit/schema/record-v1.schema.json` is made of them
(`python -m audit.document`), and a test holds that the two agree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from audit.document_parts import (
    STRICT,
    Count,
    DecisionPart,
    DestinationPart,
    FailedOpenPart,
    Hash,
    PeerPart,
    RequestPart,
    ShadowPart,
    SourcePart,
    SubjectPart,
    Time,
)
from audit.record import (
    SCHEMA_VERSION,
    AuditEvent,
    AuditRecord,
    DecisionFacts,
    FailedOpenFacts,
    Kind,
    RequestFacts,
    ShadowFacts,
)
from audit.redact import Redactor
from audit.replay_facts import ReplayPart, replay_part
from audit.trace import TracePart, trace_part

_MICROSECONDS: Final = 1_000_000


@with_config(STRICT)
class DecisionDocument(TypedDict):
    """A decision, before it is chained."""

    kind: Literal["decision"]
    schema: Literal[1]
    decision_id: str
    received_at: Time
    decided_at: Time
    node: str
    revision: Annotated[str, Field(description="digest of the policy set that decided")]
    peer: PeerPart | None
    subject: SubjectPart | None
    destination: DestinationPart | None
    source: SourcePart
    xfcc: NotRequired[Annotated[str, Field(description="what became of that header, and why")]]
    request: RequestPart
    decision: DecisionPart
    audited_by: list[str]
    shadow: list[ShadowPart]
    failed_open: NotRequired[
        Annotated[list[FailedOpenPart], Field(description="providers passed without a verdict")]
    ]
    replay: NotRequired[Annotated[ReplayPart, Field(description="what `policy replay` needs more")]]
    trace: NotRequired[Annotated[TracePart, Field(description="how it came about, where wanted")]]
    duration_microseconds: Count
    phases_microseconds: NotRequired[
        Annotated[
            dict[str, Count],
            Field(
                description="how the duration is split; what comes after the record is not in it"
            ),
        ]
    ]
    masked: Annotated[list[str], Field(description="JSON pointers of what was masked")]


@with_config(STRICT)
class EventDocument(TypedDict):
    """Something other than a decision, before it is chained."""

    kind: Literal["event"]
    schema: Literal[1]
    event: Literal[
        "start",
        "stop",
        "reload",
        "resume",
        "record_fault",
        "record_late",
        "dropped",
        "segments_removed",
        "signing_ended",
        "svid_issued",
        "svid_refused",
        "revoked",
        "revocation_lifted",
        "entry_added",
        "entry_removed",
        "join_token_made",
        "authority_changed",
    ]
    at: Time
    node: str
    details: dict[str, Any]


@with_config(STRICT)
class SegmentDocument(TypedDict):
    """The header of a segment, before it is chained; its `prev` ties it to the one before."""

    kind: Literal["segment"]
    schema: Literal[1]
    segment: Annotated[int, Field(ge=1)]
    first_seq: Annotated[int, Field(ge=1, description="this line's own seq")]
    log_id: Annotated[str, Field(description="drawn once for a folder: tells logs apart")]
    node: str
    created_at: Time


@with_config(STRICT)
class DecisionLine(DecisionDocument):
    """A decision as written."""

    seq: Annotated[int, Field(ge=1)]
    prev: Hash
    hash: Hash


@with_config(STRICT)
class EventLine(EventDocument):
    """An event as written."""

    seq: Annotated[int, Field(ge=1)]
    prev: Hash
    hash: Hash


@with_config(STRICT)
class SegmentLine(SegmentDocument):
    """A segment's header as written."""

    seq: Annotated[int, Field(ge=1)]
    prev: Hash
    hash: Hash


Document = DecisionDocument | EventDocument | SegmentDocument
WrittenLine = Annotated[DecisionLine | EventLine | SegmentLine, Field(discriminator="kind")]
LINE_ADAPTER: TypeAdapter[DecisionLine | EventLine | SegmentLine] = TypeAdapter(WrittenLine)


def format_time(seconds: float) -> str:
    """Return seconds since the epoch as RFC 3339 UTC text with microseconds."""
    try:
        fraction, whole = math.modf(seconds)
        # To the nearest microsecond, a tie to the even one: as `datetime` does.
        second, microsecond = int(whole), round(fraction * 1e6)
        if not 0 <= microsecond < _MICROSECONDS:
            second += microsecond // _MICROSECONDS
            microsecond %= _MICROSECONDS
        return f"{_second_text(second)}.{microsecond:06d}Z"
    except (ValueError, OverflowError, OSError):  # a clock beyond year 9999, or not a number
        return format_time(0.0)


@lru_cache(maxsize=8)  # BUDGET: the times of a second's thousands of records
def _second_text(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")


def document_from_event(event: AuditEvent, *, node: str, redactor: Redactor) -> EventDocument:
    """Return the written form of an event."""
    return {
        "kind": Kind.EVENT.value,
        "schema": SCHEMA_VERSION,
        "event": event.event.value,
        "at": format_time(event.at),
        "node": node,
        "details": redactor.value(event.details),
    }


def document_from_record(record: AuditRecord, *, node: str, redactor: Redactor) -> DecisionDocument:
    """Return the written form of a decision: selected, masked, and saying what was masked."""
    masked: list[str] = []
    document: DecisionDocument = {
        "kind": Kind.DECISION.value,
        "schema": SCHEMA_VERSION,
        "decision_id": record.decision_id,
        "received_at": format_time(record.received_at),
        "decided_at": format_time(record.decided_at),
        "node": node,
        "revision": record.revision,
        "peer": peer_part(record, redactor, masked),
        "subject": subject_part(record, redactor, masked),
        "destination": destination_part(record),
        "source": {"address": record.source_address},
        "request": _request_part(record.request, redactor, masked),
        "decision": decision_part(record.decision, redactor, masked, "decision"),
        "audited_by": list(record.audited_by),
        "shadow": [
            shadow_part(shadow, index, redactor, masked)
            for index, shadow in enumerate(record.shadow)
        ],
        "duration_microseconds": max(0, record.duration_microseconds),
        "masked": masked,
    }
    if record.xfcc:
        document["xfcc"] = masked_text(record.xfcc, redactor, masked, "xfcc")
    if record.failed_open:
        document["failed_open"] = [
            failed_open_part(facts, index, redactor, masked)
            for index, facts in enumerate(record.failed_open)
        ]
    if record.phases:
        document["phases_microseconds"] = dict(record.phases)
    if record.trace is not None:
        document["trace"] = trace_part(record.trace)
    if record.replay is not None:
        subject = document["subject"]
        document["replay"] = replay_part(
            record.replay,
            headers=record.request.headers,
            shown=document["request"]["headers"],
            carriers=record.request.token_carriers,
            claims=record.subject.claims if record.subject else {},
            shown_claims=subject["claims"] if subject else {},
            redactor=redactor,
        )
    return document


def pointer(*steps: object) -> str:
    """Return the JSON pointer of a value (RFC 6901 §3: `~` and `/` escaped)."""
    escaped = (str(step).replace("~", "~0").replace("/", "~1") for step in steps)
    return "/" + "/".join(escaped)


def peer_part(record: AuditRecord, redactor: Redactor, masked: list[str]) -> PeerPart | None:
    """Return the peer as written; pointers of what was changed are added to `masked`, as below."""
    if record.peer is None:
        return None
    principal = masked_text(record.peer.principal, redactor, masked, "peer", "principal")
    part: PeerPart = {
        "principal": principal,
        "spiffe_id": record.peer.spiffe_id,
        "proof": record.peer.proof,
    }
    if record.peer.mapping:
        part["mapped"] = {
            "mapping": record.peer.mapping,
            "namespace": record.peer.namespace,
            "service_account": record.peer.service_account,
            "labels": dict(record.peer.labels),
        }
    return part


def subject_part(record: AuditRecord, redactor: Redactor, masked: list[str]) -> SubjectPart | None:
    """Return the subject as written, with the claims that are shown."""
    if record.subject is None:
        return None
    subject = record.subject
    claims = redactor.claims(subject.claims)
    for name, shown in claims.items():
        if subject.claims[name] != shown:
            masked.append(pointer("subject", "claims", name))
    issuer, sub = subject.issuer, subject.sub
    return {
        "issuer": issuer and _masked_claim("iss", issuer, redactor, masked, "issuer"),
        "sub": sub and _masked_claim("sub", sub, redactor, masked, "sub"),
        "claims": claims,
    }


def _masked_claim(name: str, text: str, redactor: Redactor, masked: list[str], field: str) -> str:
    """Return a claim of the subject masked, or its hash, its pointer noted when that changed it."""
    shown = str(redactor.claim(name, text))
    if shown != text:
        masked.append(pointer("subject", field))
    return shown


def masked_text(text: str, redactor: Redactor, masked: list[str], *steps: object) -> str:
    """Return a text masked, its JSON pointer noted when that changed it."""
    shown = redactor.text(text)
    if shown != text:
        masked.append(pointer(*steps))
    return shown


def destination_part(record: AuditRecord) -> DestinationPart | None:
    """Return the destination as written."""
    if record.destination is None:
        return None
    place = record.destination
    return {
        "namespace": place.namespace,
        "service_account": place.service_account,
        "labels": dict(place.labels),
        "port": place.port,
    }


def _request_part(request: RequestFacts, redactor: Redactor, masked: list[str]) -> RequestPart:
    headers = redactor.headers(request.headers, request.token_carriers)
    path = redactor.path(request.path, request.token_carriers)
    if path != request.path:
        masked.append(pointer("request", "path"))
    given = request.headers
    for name, values in headers.items():
        if tuple(values) != tuple(given[name]):
            masked.append(pointer("request", "headers", name))
    return {
        "id": masked_text(request.id, redactor, masked, "request", "id"),
        "method": masked_text(request.method, redactor, masked, "request", "method"),
        "host": masked_text(request.host, redactor, masked, "request", "host"),
        "path": path,
        "protocol": request.protocol,
        "headers": headers,
        "size": max(-1, request.size),
    }


def decision_part(
    decision: DecisionFacts, redactor: Redactor, masked: list[str], *steps: object
) -> DecisionPart:
    """Return a decision as written; `steps` lead to it."""
    return {
        "effect": "allow" if decision.effect == "allow" else "deny",
        "reason": str(decision.reason),
        "layer": str(decision.layer),
        "http_status": decision.http_status,
        "policy": decision.policy,
        "rule": decision.rule,
        "place": decision.place,
        "detail": masked_text(decision.detail, redactor, masked, *steps, "detail"),
        "near_miss": masked_text(decision.near_miss, redactor, masked, *steps, "near_miss"),
    }


def shadow_part(
    shadow: ShadowFacts, index: int, redactor: Redactor, masked: list[str]
) -> ShadowPart:
    """Return one shadow as written."""
    part: ShadowPart = {
        "policy": shadow.policy,
        "action": str(shadow.action),
        "matched": shadow.matched,
        "effect": str(shadow.effect),
        "outcome": str(shadow.outcome),
        "detail": masked_text(shadow.detail, redactor, masked, "shadow", index, "detail"),
    }
    if shadow.would is not None:
        part["would"] = decision_part(shadow.would, redactor, masked, "shadow", index, "would")
    if shadow.revision:
        part["revision"] = shadow.revision
    if shadow.rules:
        part["rules"] = shadow.rules
    return part


def failed_open_part(
    facts: FailedOpenFacts, index: int, redactor: Redactor, masked: list[str]
) -> FailedOpenPart:
    """Return a provider that was passed without a verdict as written."""
    return {
        "provider": facts.provider,
        "reason": str(facts.reason),
        "error": masked_text(facts.error, redactor, masked, "failed_open", index, "error"),
    }


def json_schema() -> Mapping[str, Any]:
    """Return the JSON Schema (2020-12) of one written line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Meshwarden audit line, schema version 1",
        **LINE_ADAPTER.json_schema(),
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
