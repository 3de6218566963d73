"""What one line of the record says, as plain values handed over by the caller.

Texts here may still hold secrets: `audit.document` selects and masks on the way
to the file, so that no caller can forget to. Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from audit.replay_facts import ReplayFacts
from audit.trace import TraceFacts

SCHEMA_VERSION: Final = 1


class Kind(StrEnum):
    """What a line is about."""

    SEGMENT = "segment"
    DECISION = "decision"
    EVENT = "event"


class EventName(StrEnum):
    """What happened to the authorizer, to the companion CA, or to the record itself."""

    START = "start"
    STOP = "stop"
    RELOAD = "reload"
    RESUME = "resume"
    RECORD_FAULT = "record_fault"
    RECORD_LATE = "record_late"
    DROPPED = "dropped"
    SEGMENTS_REMOVED = "segments_removed"
    SIGNING_ENDED = "signing_ended"
    SVID_ISSUED = "svid_issued"
    SVID_REFUSED = "svid_refused"
    REVOKED = "revoked"
    REVOCATION_LIFTED = "revocation_lifted"
    ENTRY_ADDED = "entry_added"
    ENTRY_REMOVED = "entry_removed"
    JOIN_TOKEN_MADE = "join_token_made"  # noqa: S105 - the name of an event
    AUTHORITY_CHANGED = "authority_changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerFacts:
    """The peer: its name, its SPIFFE ID when the name is one, and what proves it.

    `proof` is `tls`, `certificate`, `xfcc` or `filter_state`. `mapping` names the
    mapping that gave it namespace and service account; without one all are empty.
    """

    principal: str
    spiffe_id: str | None = None
    proof: str = "tls"
    mapping: str = ""
    namespace: str = ""
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectFacts:
    """The subject of a verified token; `claims` is the whole payload, selected later."""

    issuer: str | None = None
    sub: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationFacts:
    """The workload that was asked about."""

    namespace: str
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFacts:
    """The request; `headers` are all of them (lower-case name to values), selected later.

    `token_carriers` names every header, query parameter and cookie that a token
    was looked for in: their values are never written. `size` is -1 when unknown.
    """

    method: str = ""
    host: str = ""
    path: str = ""
    protocol: str = ""
    id: str = ""
    size: int = -1
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    token_carriers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionFacts:
    """The answer and its cause. `rule` is the index in the policy, `place` is `file:line`."""

    effect: str
    reason: str
    layer: str
    http_status: int
    policy: str | None = None
    rule: int | None = None
    place: str = ""
    detail: str = ""
    near_miss: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowFacts:
    """What one policy, or a set of them, that is not enforced would have answered.

    `would` is the whole answer where it is another; `revision` is that of a candidate set,
    `rules` the number of a policy's rules.
    """

    policy: str
    action: str
    matched: str | None
    effect: str
    outcome: str
    detail: str = ""
    would: DecisionFacts | None = None
    revision: str = ""
    rules: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedOpenFacts:
    """A provider that gave no verdict and was passed all the same, by the operator's wish."""

    provider: str
    reason: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One decision, ready for the record. `decision_id` is 32 hex digits (a UUID4).

    `xfcc` is what became of the header of that name, empty where there is nothing to say.
    `replay` is None where no policy was looked at. `trace` is None where none is wanted.
    `phases` are the microseconds of each part of the decision.
    """

    decision_id: str
    received_at: float
    decided_at: float
    revision: str
    request: RequestFacts
    decision: DecisionFacts
    peer: PeerFacts | None = None
    subject: SubjectFacts | None = None
    destination: DestinationFacts | None = None
    source_address: str = ""
    xfcc: str = ""
    audited_by: tuple[str, ...] = ()
    shadow: tuple[ShadowFacts, ...] = ()
    failed_open: tuple[FailedOpenFacts, ...] = ()
    replay: ReplayFacts | None = None
    trace: TraceFacts | None = None
    duration_microseconds: int = 0
    phases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Something other than a decision: start, stop, reload, resume. `details` is JSON."""

    event: EventName
    at: float
    details: Mapping[str, Any] = field(default_factory=dict)
