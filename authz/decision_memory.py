"""Decisions, remembered until anything they rest on changes.

Theory of operation. A question (`authz.check_key`) that comes a second time is decided in full
once more, and what the walk rested on is noted (`authz.grounds`). From the third time on the
decision is recalled, as long as its grounds hold. Rules this file keeps:
- what is remembered belongs to one serving state, and goes with it;
- only what policies said by themselves is remembered: no provider's word, no failure;
- of a path what policies see of it decides (`policies.path_view`), and where that is not known
  the path itself: so a path that never came before is recalled as one that is seen alike;
- number and size are bounded, and what nobody asks for again is forgotten first;
- where hardly any question comes again, only some of them are looked up.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple
from weakref import ref

from audit.mould import RecordMould, RepeatedRecord
from audit.record import AuditRecord
from audit.settings import TraceOf
from authz.check_key import VOLATILE_HEADERS, CheckKey, has_plain_names, key_of
from authz.grounds import Grounds
from authz.prepared_answer import AnswerMould
from authz.selection import DEFAULT_CARRIERS
from authz.serving_state import ServingState
from authz.settings import IdentityHeaderSettings, Settings
from authz.walk import Outcome, Surroundings
from identity.token_outputs import output_header_names
from policies.decision import Reason, ShadowOutcome
from policies.path_view import PathView, Seen

# BUDGET: questions that were asked once, for each that is remembered.
_SEEN_FOR_EACH: Final = 4
_LONGEST_ANSWER: Final = 16_384
# WHY: a look costs a tenth of a walk and a recall saves nine, so that looks which find nothing
# nine times in ten pay for nothing.
_WORTH_ONE_IN: Final = 10
_LOOKS_COUNTED: Final = 512
_LOOKED_UP_ONE_IN: Final = 8
_LASTING: Final = frozenset(
    {
        Reason.ALLOW_RULE_MATCHED,
        Reason.NO_ALLOW_POLICY,
        Reason.NO_ALLOW_RULE_MATCHED,
        Reason.DENY_RULE_MATCHED,
        Reason.PEER_REQUIRED,
    }
)

_Message = tuple[bytes, tuple[str, ...]]
# What is seen of the path, or the path; None where it is not known yet what can be seen.
_Question = tuple[_Message, Seen | str | None]


class KnownDecision:
    """A decision with its answer and its record, made but for what differs each time."""

    __slots__ = ("answer", "grounds", "mould", "outcome", "was_asked")

    def __init__(
        self, outcome: Outcome, answer: AnswerMould, mould: RecordMould, grounds: Grounds
    ) -> None:
        """Keep the parts; `was_asked` since it last stood at the end of the queue."""
        self.outcome = outcome
        self.answer = answer
        self.mould = mould
        self.grounds = grounds
        self.was_asked = False

    def record(
        self,
        key: CheckKey,
        *,
        decision_id: str,
        decided_at: float,
        duration: float,
        phases: Mapping[str, int],
    ) -> RepeatedRecord:
        """Return the record of this decision made again; `duration` is seconds."""
        return RepeatedRecord(
            self.mould,
            decision_id,
            key.received_at or decided_at,
            decided_at,
            key.stream_id,
            key.path or self.mould.first.request.path,
            key.size,
            key.values,
            max(0, int(duration * 1e6)),
            phases,
        )


@dataclass(slots=True, eq=False)
class _Shelf:
    """What is remembered under one state: decisions, and the questions that came once.

    WHY a weak reference: where no check comes, a state that serves no more would stay.
    """

    state: ref[ServingState]
    volatile: tuple[str, ...]
    known: dict[_Question, KnownDecision]
    seen: set[_Question]
    seen_before: set[_Question]
    views: dict[_Message, PathView]

    def question(self, key: CheckKey) -> _Question:
        """Return what a key asks."""
        if not key.path:
            return key.question, ""
        view = self.views.get(key.question)
        if view is None:
            return key.question, None
        seen = view.seen(key.path)
        return key.question, key.path if seen is None else seen


class Sight(NamedTuple):
    """A question that was looked up: what is known of it, and whether it came before."""

    key: CheckKey
    shelf: _Shelf
    known: KnownDecision | None
    is_worth_keeping: bool


class DecisionMemory:
    """Remembers decisions. Safe to share between threads."""

    def __init__(self, max_decisions: int = 1024) -> None:
        """Start empty.

        Raises:
            ValueError: `max_decisions` is less than one.
        """
        if max_decisions < 1:
            raise ValueError("a memory holds at least one decision")
        self._max = max_decisions
        self._lock = threading.Lock()
        self._shelf: _Shelf | None = None
        self._worth = _Worth()

    def __len__(self) -> int:
        """Return how many decisions are remembered."""
        return 0 if self._shelf is None else len(self._shelf.known)

    def look(
        self, message: bytes, forwarded: tuple[str, ...], state: ServingState, around: Surroundings
    ) -> Sight | None:
        """Return what is known of a serialized CheckRequest; None where it is not looked up."""
        if not self._worth.is_looked_up():
            return None
        shelf = self._shelf
        if shelf is None or shelf.state() is not state:
            shelf = self._shelf = _new_shelf(state, around.headers)
        key = key_of(message, forwarded, shelf.volatile)
        if key is None:
            return None
        question = shelf.question(key)
        known = shelf.known.get(question)
        if known is None:
            return Sight(key, shelf, None, self._came_before(shelf, question))
        if not known.grounds.hold(around):
            return Sight(key, shelf, None, True)
        self._worth.hits += 1
        known.was_asked = True
        return Sight(key, shelf, known, False)

    def keep(
        self,
        sight: Sight,
        outcome: Outcome,
        answer: AnswerMould,
        first: AuditRecord,
        grounds: Grounds,
    ) -> None:
        """Remember a decision, and forget one that was not asked for, where there are too many.

        `first` is its record.
        """
        key, shelf = sight.key, sight.shelf
        headers = first.request.headers
        if (
            outcome.basis is None
            or len(answer) > _LONGEST_ANSWER
            or any(headers.get(name) != (text,) for name, text in key.values)
            or (key.path and first.request.path != key.path)
        ):
            return
        mould = RecordMould(first, tuple(name for name, _ in key.values))
        known = KnownDecision(outcome, answer, mould, grounds)
        with self._lock:
            if key.path:
                while len(shelf.views) >= _SEEN_FOR_EACH * self._max:
                    del shelf.views[next(iter(shelf.views))]
                shelf.views[key.question] = outcome.basis.paths
            decisions, question = shelf.known, shelf.question(key)
            decisions.pop(question, None)
            while len(decisions) >= self._max:
                oldest = next(iter(decisions))
                found = decisions.pop(oldest)
                if found.was_asked:  # it goes round once more
                    found.was_asked = False
                    decisions[oldest] = found
            decisions[question] = known

    def _came_before(self, shelf: _Shelf, question: _Question) -> bool:
        """Note a question; return whether it was noted already."""
        with self._lock:
            if question in shelf.seen or question in shelf.seen_before:
                return True
            shelf.seen.add(question)
            if len(shelf.seen) >= _SEEN_FOR_EACH * self._max:
                shelf.seen, shelf.seen_before = set(), shelf.seen
            return False


class _Worth:
    """Whether looking up pays. Several threads may miscount a little: nothing rests on it."""

    __slots__ = ("_came", "_is_worth_it", "_looks", "hits")

    def __init__(self) -> None:
        """Begin with every question looked up; `hits` is for the caller to count."""
        self.hits = 0
        self._came = 0
        self._looks = 0
        self._is_worth_it = True

    def is_looked_up(self) -> bool:
        """Whether the question that has come now is looked up."""
        if not self._is_worth_it:
            self._came += 1
            if self._came % _LOOKED_UP_ONE_IN:
                return False
        self._looks += 1
        if self._looks >= _LOOKS_COUNTED:
            self._is_worth_it = self.hits * _WORTH_ONE_IN >= self._looks
            self._looks = self.hits = 0
        return True


def memory_for(settings: Settings) -> DecisionMemory | None:
    """Return an empty memory as the configuration wants it.

    None where it wants none, or something that needs the whole walk of each decision.
    """
    needs_walks = (
        settings.tracing is not None
        or settings.audit.trace is not TraceOf.OFF
        or settings.dryrun.candidate is not None
    )
    most = settings.decision_memory.max_decisions
    return None if needs_walks or not most else DecisionMemory(most)


def may_be_kept(outcome: Outcome, message: bytes) -> bool:
    """Whether policies alone said so, and would again."""
    return (
        outcome.decision.reason in _LASTING
        and outcome.basis is not None
        and not outcome.basis.asked
        and not outcome.decision.failed_open
        and all(each.outcome is not ShadowOutcome.ERROR for each in outcome.shadow)
        and has_plain_names(message)
    )


def volatile_headers(state: ServingState, headers: IdentityHeaderSettings) -> tuple[str, ...]:
    """Return the headers whose values no walk under a state looks at, of `VOLATILE_HEADERS`."""
    snapshot = state.snapshot
    looked_at = {*snapshot.needs.headers, *output_header_names(snapshot.jwt_rules)}
    looked_at.update(DEFAULT_CARRIERS, (headers.peer, headers.subject, headers.decision_id))
    for rule in snapshot.jwt_rules:
        looked_at.update(each.name.lower() for each in rule.from_headers)
    return tuple(name for name in VOLATILE_HEADERS if name not in looked_at)


def _new_shelf(state: ServingState, headers: IdentityHeaderSettings) -> _Shelf:
    return _Shelf(ref(state), volatile_headers(state, headers), {}, set(), set(), {})
