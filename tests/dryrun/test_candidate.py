"""A candidate set that answers, fails, hangs or is closed: marked, and never in the way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest

from dryrun.candidate import CandidateShadow, JudgeAtOnce, SecondsLeft, never_at_once
from policies.decision import Decision, Effect, Layer, Reason, ShadowOutcome
from policies.request import Request

ALLOW = Decision(effect=Effect.ALLOW, reason=Reason.NO_ALLOW_POLICY, layer=Layer.DEFAULT)
DENY = Decision(effect=Effect.DENY, reason=Reason.DENY_RULE_MATCHED, layer=Layer.DENY)
REQUEST = Request(method="GET", path="/")
PATIENT = 60.0
# Long enough for a thread to begin on a busy machine, short enough to wait it out.
HASTY = 0.25


def nobody_waits() -> float | None:
    """Return that nobody waits."""
    return None


def not_asked(_request: Request, _left: SecondsLeft) -> Decision:
    """Be asked by mistake."""
    raise AssertionError("nobody has to be waited for")


def make(
    judge: Callable[[Request, SecondsLeft], Decision],
    budget: float = PATIENT,
    threads: int = 1,
    at_once: JudgeAtOnce = never_at_once,
) -> CandidateShadow:
    """Return a shadow over a judge."""
    return CandidateShadow(
        judge,
        budget_seconds=budget,
        threads=threads,
        revision=lambda: "revision",
        at_once=at_once,
    )


@pytest.mark.parametrize(
    ("enforced", "candidate", "outcome"),
    [
        (ALLOW, ALLOW, ShadowOutcome.SAME),
        (DENY, DENY, ShadowOutcome.SAME),
        (ALLOW, DENY, ShadowOutcome.WOULD_DENY),
        (DENY, ALLOW, ShadowOutcome.WOULD_ALLOW),
    ],
)
def test_what_it_says(enforced: Decision, candidate: Decision, outcome: ShadowOutcome) -> None:
    """The verdict compares effects, keeps a different answer whole and names the set."""
    shadow = make(lambda request, left: candidate)
    verdict = shadow.verdict(REQUEST, enforced, nobody_waits)
    shadow.close()
    assert (outcome, candidate.effect, "revision") == (
        verdict.outcome,
        verdict.effect,
        verdict.revision,
    )
    assert verdict.would == (None if outcome is ShadowOutcome.SAME else candidate)


@pytest.mark.parametrize("error", [ValueError, TimeoutError, SystemExit, KeyboardInterrupt])
def test_one_that_raises(error: type[BaseException]) -> None:
    """Whatever a candidate raises becomes the name of it, and nothing of its text."""

    def judge(_request: Request, _left: SecondsLeft) -> Decision:
        raise error("secret of the request")

    shadow = make(judge)
    verdict = shadow.verdict(REQUEST, ALLOW, nobody_waits)
    shadow.close()
    assert (ShadowOutcome.ERROR, Effect.ALLOW) == (verdict.outcome, verdict.effect)
    assert f"the shadow evaluation failed: {error.__name__}" == verdict.detail


def test_one_that_hangs_is_waited_for_once() -> None:
    """Above the budget it is marked; while its thread hangs, later requests do not wait."""
    release = threading.Event()

    def judge(_request: Request, _left: SecondsLeft) -> Decision:
        release.wait(30)
        return DENY

    shadow = make(judge, budget=HASTY)
    late = shadow.verdict(REQUEST, ALLOW, nobody_waits)
    busy = [shadow.verdict(REQUEST, ALLOW, nobody_waits) for _ in range(100)]
    assert "above the budget of 250.0 ms" == late.detail
    assert {ShadowOutcome.ERROR} == {verdict.outcome for verdict in (late, *busy)}
    assert all("still busy" in verdict.detail for verdict in busy)
    release.set()
    shadow.close()


def test_it_answers_again_after_it_hung() -> None:
    """A thread that came back takes requests again."""
    release, ended = threading.Event(), threading.Event()

    def judge(request: Request, _left: SecondsLeft) -> Decision:
        if request.path == "/hang":
            release.wait(30)
            ended.set()
        return DENY

    shadow = make(judge, budget=HASTY, threads=1)
    shadow.verdict(Request(path="/hang"), ALLOW, nobody_waits)
    release.set()
    assert ended.wait(30)
    for _ in range(1000):
        verdict = shadow.verdict(REQUEST, ALLOW, nobody_waits)
        if verdict.outcome is not ShadowOutcome.ERROR:
            break
        threading.Event().wait(0.01)
    shadow.close()
    assert ShadowOutcome.WOULD_DENY is verdict.outcome


@pytest.mark.parametrize(("left", "budget"), [(0.0, None), (-1.0, None), (4.0, 2.0)])
def test_the_caller_time_counts(left: float, budget: float | None) -> None:
    """No more than half of what the caller still waits is spent; of nothing, nothing."""
    seen: list[float | None] = []

    def judge(_request: Request, seconds: SecondsLeft) -> Decision:
        seen.append(seconds())
        return ALLOW

    shadow = make(judge)
    verdict = shadow.verdict(REQUEST, ALLOW, lambda: left)
    shadow.close()
    if budget is None:
        assert (ShadowOutcome.ERROR, []) == (verdict.outcome, seen)
    else:
        assert seen[0] is not None
        assert 0 < seen[0] <= budget


def test_a_closed_one() -> None:
    """After the end, shadows are marked."""
    shadow = make(lambda request, left: ALLOW)
    shadow.close()
    verdict = shadow.verdict(REQUEST, ALLOW, nobody_waits)
    assert (ShadowOutcome.ERROR, "the candidate was closed") == (verdict.outcome, verdict.detail)


def test_who_waits_for_nobody_is_asked_there_and_then() -> None:
    """A decision that is there at once comes from the caller's own thread, within the budget."""
    seen: list[object] = []

    def at_once(_request: Request, left: SecondsLeft) -> Decision:
        seen.extend((threading.get_ident(), left()))
        return DENY

    shadow = make(not_asked, at_once=at_once)
    verdict = shadow.verdict(REQUEST, ALLOW, lambda: 4.0)
    shadow.close()
    assert (ShadowOutcome.WOULD_DENY, DENY) == (verdict.outcome, verdict.would)
    assert threading.get_ident() == seen[0]
    assert isinstance(seen[1], float) and 0 < seen[1] <= 2.0


def test_who_would_wait_is_asked_in_a_thread() -> None:
    """What cannot be said at once is asked of the threads; one of them that hangs costs as ever."""
    own = threading.get_ident()
    idents: list[int] = []

    def judge(_request: Request, _left: SecondsLeft) -> Decision:
        idents.append(threading.get_ident())
        return DENY

    shadow = make(judge, at_once=lambda _request, _left: None)
    assert ShadowOutcome.WOULD_DENY is shadow.verdict(REQUEST, ALLOW, nobody_waits).outcome
    shadow.close()
    assert 1 == len(idents) and own not in idents


@pytest.mark.parametrize("error", [ValueError, TimeoutError, SystemExit, KeyboardInterrupt])
def test_one_that_raises_at_once(error: type[BaseException]) -> None:
    """Whatever it raises in the caller's thread stays there, as the name of it."""

    def at_once(_request: Request, _left: SecondsLeft) -> Decision:
        raise error("secret of the request")

    shadow = make(not_asked, at_once=at_once)
    verdict = shadow.verdict(REQUEST, ALLOW, nobody_waits)
    shadow.close()
    assert (ShadowOutcome.ERROR, Effect.ALLOW) == (verdict.outcome, verdict.effect)
    assert f"the shadow evaluation failed: {error.__name__}" == verdict.detail


def test_a_set_that_computes_for_too_long_goes_to_the_threads() -> None:
    """A walk that took its budget is the last of its set in the caller's thread."""
    revision, asked, clock = ["first"], Counter[str](), iter(range(1000))

    def at_once(_request: Request, _left: SecondsLeft) -> Decision:
        asked["at once"] += 1
        return ALLOW

    def judge(_request: Request, _left: SecondsLeft) -> Decision:
        asked["thread"] += 1
        return ALLOW

    shadow = CandidateShadow(
        judge,
        budget_seconds=0.9,
        threads=1,
        revision=lambda: revision[0],
        at_once=at_once,
        own_time=lambda: float(next(clock)),
    )
    for name, expected in (("first", (1, 2)), ("second", (2, 4))):
        revision[0] = name
        for _ in range(3):
            shadow.verdict(REQUEST, ALLOW, nobody_waits)
        assert expected == (asked["at once"], asked["thread"])
    shadow.close()


def test_what_comes_at_once_and_late_is_marked() -> None:
    """A verdict of the caller's own thread that took longer than the budget is none."""

    def at_once(_request: Request, left: SecondsLeft) -> Decision:
        while (left() or 0) > 0:
            pass
        return DENY

    shadow = make(not_asked, budget=0.005, at_once=at_once)
    verdict = shadow.verdict(REQUEST, ALLOW, nobody_waits)
    shadow.close()
    assert (ShadowOutcome.ERROR, "above the budget of 5.0 ms") == (verdict.outcome, verdict.detail)
