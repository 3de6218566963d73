"""A candidate set that answers, fails, hangs or is closed: marked, and never in the way."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from dryrun.candidate import CandidateShadow, SecondsLeft
from policies.decision import Decision, Effect, Layer, Reason, ShadowOutcome
from policies.request import Request

ALLOW = Decision(effect=Effect.ALLOW, reason=Reason.NO_ALLOW_POLICY, layer=Layer.DEFAULT)
DENY = Decision(effect=Effect.DENY, reason=Reason.DENY_RULE_MATCHED, layer=Layer.DENY)
REQUEST = Request(method="GET", path="/")
PATIENT = 60.0


def nobody_waits() -> float | None:
    """Return that nobody waits."""
    return None


def make(
    judge: Callable[[Request, SecondsLeft], Decision], budget: float = PATIENT, threads: int = 1
) -> CandidateShadow:
    """Return a shadow over a judge."""
    return CandidateShadow(
        judge, budget_seconds=budget, threads=threads, revision=lambda: "revision"
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

    shadow = make(judge, budget=0.01)
    late = shadow.verdict(REQUEST, ALLOW, nobody_waits)
    busy = [shadow.verdict(REQUEST, ALLOW, nobody_waits) for _ in range(100)]
    assert "above the budget of 10.0 ms" == late.detail
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

    shadow = make(judge, budget=0.01, threads=1)
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
