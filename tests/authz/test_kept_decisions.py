"""What the memory of decisions takes in, what it passes by, and whom it forgets first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from remembering import Question, Side, World

from audit.mould import RepeatedRecord
from authz.decision_memory import DecisionMemory, may_be_kept
from authz.walk import Outcome
from policies.decision import Effect, FailedOpen, Reason, ShadowOutcome, ShadowVerdict

_ASKED = (("p", "r"),)
_Alter = Callable[[Outcome], Outcome]


def _outcome() -> tuple[Outcome, bytes]:
    """Return the outcome of an everyday question, and the question."""
    message = Question().message()
    return Side(World(), None).authorizer.outcome(message), message


def _shadow(outcome: ShadowOutcome) -> _Alter:
    verdict = ShadowVerdict(
        policy="shop/p", action="DENY", matched=None, effect=Effect.ALLOW, outcome=outcome
    )
    return lambda given: replace(given, shadow=(verdict,))


def _without_basis(given: Outcome) -> Outcome:
    return replace(given, basis=None)


def _asked(given: Outcome) -> Outcome:
    assert given.basis is not None
    return replace(given, basis=replace(given.basis, asked=_ASKED))


def _failed_open(given: Outcome) -> Outcome:
    passed = FailedOpen(provider="p", reason=Reason.PROVIDER_ERROR, error="timeout")
    return replace(given, decision=replace(given.decision, failed_open=(passed,)))


def _because(reason: Reason) -> _Alter:
    return lambda given: replace(given, decision=replace(given.decision, reason=reason))


@pytest.mark.parametrize(
    ("alter", "want"),
    [
        (lambda given: given, True),
        (_shadow(ShadowOutcome.SAME), True),
        (_shadow(ShadowOutcome.ERROR), False),
        (_without_basis, False),
        (_asked, False),
        (_failed_open, False),
        (_because(Reason.DENY_RULE_MATCHED), True),
        (_because(Reason.INTERNAL_ERROR), False),
        (_because(Reason.AUDIT_UNAVAILABLE), False),
    ],
    ids=[
        "plain",
        "a shadow",
        "a shadow that failed",
        "no policies",
        "a provider",
        "failed open",
        "denied",
        "a defect",
        "no record",
    ],
)
def test_only_what_policies_said_is_kept(alter: _Alter, want: bool) -> None:
    """Each of the things that may heal by itself, or was said by somebody else, is enough."""
    outcome, message = _outcome()
    assert may_be_kept(alter(outcome), message) is want


def _ask(side: Side, *methods: str) -> list[bool]:
    """Ask by each method in turn; return which answers were recalled."""
    begin = len(side.keeper.records)
    for method in methods:
        side.authorizer.check(Question(method=method).message())
    return [isinstance(each, RepeatedRecord) for each in side.keeper.records[begin:]]


def test_who_was_asked_for_goes_round_once_more() -> None:
    """The oldest decision stays if it was recalled since it last stood last, and once only."""
    side = Side(World(), DecisionMemory(2))
    assert _ask(side, "A", "A", "B", "B", "A") == [False] * 4 + [True]
    # B goes: A was asked for.
    assert _ask(side, "C", "C", "C", "A") == [False, False, True, True]
    # Both were asked for and nobody since: the one that stood first goes.
    assert _ask(side, "D", "D", "D", "C") == [False, False, True, True]
    assert _ask(side, "E", "E", "F", "F") == [False] * 4
    assert _ask(side, "E", "F") == [True, True]


@pytest.mark.parametrize(
    "message",
    [
        Question(path="/" + "a" * 8192).message(),
        CheckRequest().SerializeToString(),
        b"\xff",
    ],
    ids=["long", "no HTTP", "no message"],
)
def test_what_has_no_key_is_not_looked_up(message: bytes) -> None:
    """A question that is not told from others is neither known nor counted as one that came."""
    side, memory = Side(World(), None), DecisionMemory()
    for _ in range(3):
        assert memory.look(message, (), side.state, side.authorizer.around) is None
    assert len(memory) == 0


def test_questions_that_came_once_take_little() -> None:
    """Of those that are not kept yet a few for each that can be are known again, and no more."""
    side, memory = Side(World(), None), DecisionMemory(2)

    def came_before(method: str) -> bool:
        message = Question(method=method).message()
        sight = memory.look(message, (), side.state, side.authorizer.around)
        assert sight is not None
        return sight.is_worth_keeping

    numbers = range(40)
    assert not any(came_before(str(number)) for number in numbers)
    shelf = memory._shelf
    assert shelf is not None
    assert 8 <= len(shelf.seen | shelf.seen_before) <= 16
    assert came_before("39")
    assert not came_before("0")


def test_views_of_paths_take_little() -> None:
    """For however many questions decisions were kept, what is seen of paths is kept for a few."""
    side = Side(World(), memory := DecisionMemory(2))
    for number in range(40):
        _ask(side, f"M{number}", f"M{number}")
    shelf = memory._shelf
    assert shelf is not None
    assert (len(shelf.known), len(shelf.views)) == (2, 8)
    assert _ask(side, "M39", "M0") == [True, False]


def test_a_state_that_serves_no_more_is_not_held() -> None:
    """What is remembered belongs to one state; another one's questions begin anew."""
    side = Side(World(), memory := DecisionMemory())
    _ask(side, "A", "A")
    kept = memory._shelf
    side.reload(0)
    assert _ask(side, "A", "A", "A") == [False, False, True]
    assert memory._shelf is not kept
