"""Check, end to end: bytes in, bytes out, one record, whatever happens on the way.

Laws: the state is read once; the decision id is born here and stands in the answer,
the record and the metadata; every answer has its record, and an answer whose record
was not accepted is a denial; what fails in between denies.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from audit.errors import AuditUnavailable
from audit.mould import RepeatedRecord
from audit.record import AuditRecord
from authz.check_key import CheckKey
from authz.check_request import MalformedRequestError, decode_check_request
from authz.check_response import encode_check_response
from authz.decision_memory import DecisionMemory, KnownDecision, Sight, may_be_kept
from authz.denial import denial
from authz.explain.trace import Trace, no_trace
from authz.grounds import GroundsWatch
from authz.metrics import Metrics
from authz.phases import Phase, PhaseClock
from authz.prepared_answer import AnswerMould, decision_metadata, prepared_answer, with_id
from authz.record import record_decision
from authz.serving_state import ServingState
from authz.walk import Outcome, Surroundings, walk
from policies.decision import Decision, Layer, Reason
from policies.request import Request

_log = structlog.get_logger(__name__)
_BAD_REQUEST = 400
_INTERNAL_ERROR = 500
_UNAVAILABLE = 503
# What is left is for the answer's way back: one that comes too late says nothing.
_SHARE_OF_PROVIDERS = 0.9
_NOTHING = Request(method="", path="", host="")


class Recorder(Protocol):
    """Where records go; raises AuditUnavailable when one is not accepted."""

    def offer(self, record: AuditRecord | RepeatedRecord) -> None:
        """Accept a record."""


class DecisionSpans(Protocol):
    """What makes spans of decisions; must never raise, nor wait."""

    def decided(self, outcome: Outcome, decision_id: str, clock: PhaseClock) -> None:
        """Make the spans of one decision."""


def new_id() -> str:
    """Return a UUID of version 4 as 32 hex digits (RFC 9562 section 5.4).

    WHY by hand: the library's takes two and a half times as long.
    """
    raw = bytearray(secrets.token_bytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return raw.hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorizer:
    """Answers serialized CheckRequests. Thread-safe; holds no state of its own but a memory.

    `trace` says what goes on record beside a decision of how it came about; `spans` tells
    OpenTelemetry, where it is wanted.
    """

    state: Callable[[], ServingState]
    around: Surroundings
    recorder: Recorder
    metrics: Metrics
    new_id: Callable[[], str] = new_id
    trace: Trace = no_trace
    spans: DecisionSpans | None = None
    memory: DecisionMemory | None = None

    def __post_init__(self) -> None:
        """Hold that nothing which needs a whole walk stands beside a memory.

        Raises:
            ValueError: something does.
        """
        needs_walks = self.spans or self.around.candidate or self.trace is not no_trace
        if self.memory is not None and needs_walks:
            raise ValueError("decisions are not remembered beside spans, traces or a candidate")

    def check(
        self, message: bytes, forwarded: tuple[str, ...] = (), seconds: float | None = None
    ) -> bytes:
        """Return the serialized CheckResponse; never raises.

        `forwarded` is what the call's metadata says of the peer, see `identity.waypoint`.
        `seconds` is how long the caller waits, None where nobody knows.
        """
        begun = time.perf_counter()
        clock = PhaseClock(begun)
        until = None if seconds is None else begun + seconds * _SHARE_OF_PROVIDERS
        decision_id = self.new_id()
        state = self.state()
        sight = self._look(message, forwarded, state)
        if sight is not None and sight.known is not None:
            recalled = self._recall(sight.known, sight.key, decision_id, clock)
            if recalled is not None:
                return recalled
        watch = GroundsWatch(self.around) if sight and sight.is_worth_keeping else None
        around = self.around if watch is None else watch.around
        # WHY encoded before it is recorded: the record must tell the answer that is sent.
        decided = self._decide(message, forwarded, state, around, until, clock)
        outcome, answer = self._encoded(decided, decision_id)
        clock.end(Phase.ANSWER)
        recorded = self._recorded(outcome, decision_id, state.revision, clock)
        clock.end(Phase.RECORD)
        if recorded is not outcome:
            outcome, answer = self._encoded(recorded, decision_id)
        elif sight is not None and watch is not None:
            self._keep(sight, watch, outcome, message, state.revision)
        self._count(outcome, clock)
        if self.spans is not None:
            self.spans.decided(outcome, decision_id, clock)
        return answer

    def outcome(self, message: bytes, forwarded: tuple[str, ...] = ()) -> Outcome:
        """Return what `check` would answer by, with all it rests on; nothing is recorded."""
        clock = PhaseClock(time.perf_counter())
        decided = self._decide(message, forwarded, self.state(), self.around, None, clock)
        return self._encoded(decided, self.new_id())[0]

    def _look(
        self, message: bytes, forwarded: tuple[str, ...], state: ServingState
    ) -> Sight | None:
        """Return what is remembered of a message; None where nothing may be."""
        if self.memory is None:
            return None
        try:
            sight = self.memory.look(message, forwarded, state, self.around)
        except Exception:
            # WHY so wide: no defect of a memory may keep a request from being decided.
            _log.exception("memory_failed")
            return None
        if sight is not None:
            (self.metrics.not_recalled if sight.known is None else self.metrics.recalled).inc()
        return sight

    def _recall(
        self, known: KnownDecision, key: CheckKey, decision_id: str, clock: PhaseClock
    ) -> bytes | None:
        """Return a remembered answer, recorded like any other; None where it does not fit."""
        answer = known.answer.with_id(decision_id)
        if answer is None:
            return None
        outcome = known.outcome
        clock.end(Phase.RECALL)
        record = known.record(
            key,
            decision_id=decision_id,
            decided_at=self.around.wall_clock(),
            duration=time.perf_counter() - clock.begun,
            phases=clock.microseconds(),
        )
        try:
            self.recorder.offer(record)
        except AuditUnavailable as exc:
            outcome, answer = self._encoded(_unrecorded(outcome, exc), decision_id)
        clock.end(Phase.RECORD)
        self._count(outcome, clock)
        return answer

    def _keep(
        self,
        sight: Sight,
        watch: GroundsWatch,
        outcome: Outcome,
        message: bytes,
        revision: str,
    ) -> None:
        """Remember an outcome that was answered and recorded, where it will hold."""
        try:
            grounds = watch.grounds()
            if self.memory is None or grounds is None or not may_be_kept(outcome, message):
                return
            answer = AnswerMould(lambda stand_in: self._answer(outcome, stand_in))
            first = record_decision(
                outcome, decision_id="", revision=revision, decided_at=0.0, duration=0.0
            )
            self.memory.keep(sight, outcome, answer, first, grounds)
        except Exception:
            # WHY so wide: the answer stands, whatever a memory makes of it.
            _log.exception("memory_failed")

    def _decide(
        self,
        message: bytes,
        forwarded: tuple[str, ...],
        state: ServingState,
        around: Surroundings,
        until: float | None,
        clock: PhaseClock,
    ) -> Outcome:
        """Return the outcome; a message or a walk that fails is a denial."""
        request = _NOTHING
        try:
            request = decode_check_request(message, forwarded)
            clock.end(Phase.DECODE)
            return walk(
                request,
                state,
                around,
                lambda: None if until is None else until - time.perf_counter(),
                clock.end,
            )
        except MalformedRequestError as exc:
            refused = denial(Reason.REQUEST_MALFORMED, Layer.REQUEST, detail=str(exc))
            refused = replace(refused, http_status=_BAD_REQUEST, body="Bad Request")
            return Outcome(request=request, decision=refused)
        except Exception as exc:
            # WHY so wide: no defect of ours may answer with anything but a denial.
            _log.exception("check_failed")
            return Outcome(request=request, decision=_failure("the decision", exc))

    def _recorded(
        self, outcome: Outcome, decision_id: str, revision: str, clock: PhaseClock
    ) -> Outcome:
        """Hand the record over, or turn the outcome into a denial."""
        decided_at = self.around.wall_clock()
        record = record_decision(
            outcome,
            decision_id=decision_id,
            revision=revision,
            decided_at=decided_at,
            duration=time.perf_counter() - clock.begun,
            phases=clock.microseconds(),
            trace=self.trace(outcome),
        )
        try:
            self.recorder.offer(record)
        except AuditUnavailable as exc:
            return _unrecorded(outcome, exc)
        return outcome

    def _encoded(self, outcome: Outcome, decision_id: str) -> tuple[Outcome, bytes]:
        """Return the answer, and the outcome it tells: a denial when no message can hold it."""
        try:
            return outcome, self._answer(outcome, decision_id)
        except Exception as exc:
            # WHY so wide: a provider's texts, numbers and nesting fail in many ways, none an allow.
            _log.error("answer_failed", decision_id=decision_id, error=type(exc).__name__)
            refused = replace(outcome, decision=_failure("the answer", exc))
            return refused, encode_check_response(
                refused.decision,
                {"decision_id": decision_id},
                is_http=outcome.request.is_http,
            )

    def _answer(self, outcome: Outcome, decision_id: str) -> bytes:
        """Return the serialized answer.

        Raises:
            Exception: of many kinds, when no message can hold a provider's values.
        """
        decision, is_http = outcome.decision, outcome.request.is_http
        header = self.around.headers.decision_id
        if not (outcome.shadow or outcome.istio_shadow):
            prepared = prepared_answer(decision, header, decision_id, is_http=is_http)
            if prepared is not None:
                return prepared
        metadata = dict(decision_metadata(decision, decision_id))
        metadata.update(outcome.istio_shadow)
        if outcome.shadow:
            metadata["shadow"] = {each.policy: str(each.outcome) for each in outcome.shadow}
        headers = with_id(decision.mutations, header, decision_id)
        return encode_check_response(decision, metadata, response_headers=headers, is_http=is_http)

    def _count(self, outcome: Outcome, clock: PhaseClock) -> None:
        decision = outcome.decision
        self.metrics.decision(decision.effect, decision.layer, decision.reason)
        if decision.rule is not None:
            rule = decision.rule
            self.metrics.by_policy.fired(f"{rule.namespace}/{rule.policy}", decision.effect)
        self.metrics.seconds.observe(time.perf_counter() - clock.begun)
        self.metrics.phases.count(clock)
        for passed in decision.failed_open:
            self.metrics.failed_open.labels(passed.provider, passed.reason).inc()
        for verdict in outcome.shadow:
            self.metrics.shadow.labels(verdict.policy, verdict.outcome).inc()


def _unrecorded(outcome: Outcome, exc: AuditUnavailable) -> Outcome:
    """Return the denial of a request that was decided and could not be recorded."""
    refused = denial(Reason.AUDIT_UNAVAILABLE, Layer.INTERNAL, detail=str(exc))
    return replace(outcome, decision=replace(refused, http_status=_UNAVAILABLE))


def _failure(what: str, exc: Exception) -> Decision:
    """Return the denial for a defect of ours, by the name of the error only."""
    refused = denial(
        Reason.INTERNAL_ERROR, Layer.INTERNAL, detail=f"{what} failed with {type(exc).__name__}"
    )
    return replace(refused, http_status=_INTERNAL_ERROR)
