"""A whole candidate policy set, asked beside the enforced one and never in its way.

Theory of operation. The enforced answer is made first. Where the candidate has nobody to wait
for, it is asked there and then: two changes of threads cost as much as its walk. Elsewhere it
is asked in a thread of its own, and waited for no longer than its budget, nor longer than half
of what the caller still waits. One that fails, is late or still hangs on earlier requests is
marked as an error; a thread that hangs is not waited for again, so that the worst candidate
costs its budget once for each of its threads. A set whose walk alone took its budget is asked
in the threads from then on, until another set has come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from dryrun.shadow import beside, without_verdict
from policies.decision import Decision, ShadowVerdict
from policies.request import Request

CANDIDATE: Final = "candidate"
"""The name under which the verdict of the candidate set stands."""

# The other half is for the answer's way back.
_SHARE_OF_CALLER: Final = 0.5
_CLOSED: Final = "the candidate was closed"

SecondsLeft = Callable[[], float | None]
"""Returns what is left of a time, None when nobody waits."""

Judge = Callable[[Request, SecondsLeft], Decision]
"""The walk of a request under the candidate set; may raise and may take long."""

JudgeAtOnce = Callable[[Request, SecondsLeft], Decision | None]
"""The same where nobody is waited for, None where somebody would be; may raise."""


def never_at_once(request: Request, seconds_left: SecondsLeft) -> None:
    """Leave every request to the threads."""


class CandidateShadow:
    """Asks a candidate set. Safe from many threads; `close` when no more is asked."""

    def __init__(
        self,
        judge: Judge,
        *,
        budget_seconds: float,
        threads: int,
        revision: Callable[[], str],
        at_once: JudgeAtOnce = never_at_once,
        own_time: Callable[[], float] = time.thread_time,
    ) -> None:
        """Ask `at_once`, and `judge` in as many `threads` where that leaves a request open.

        `revision` tells which set they judge by, `own_time` the CPU seconds of a thread.
        """
        self._judge = judge
        self._at_once = at_once
        self._own_time = own_time
        self._too_long: str | None = None
        self._is_closed = False
        self._budget = budget_seconds
        self._revision = revision
        self._free = threading.Semaphore(threads)
        self._threads = ThreadPoolExecutor(threads, "candidate")

    def close(self) -> None:
        """Take no more requests; what runs is left to its end."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def verdict(
        self, request: Request, enforced: Decision, seconds_left: SecondsLeft
    ) -> ShadowVerdict:
        """Return what the candidate says, or a mark that it said nothing in time.

        INVARIANT: never raises; waits no longer than the budget.
        """
        found = self._asked(request, seconds_left)
        revision = self._revision()
        if isinstance(found, str):
            return without_verdict(CANDIDATE, enforced, found, revision=revision)
        return beside(CANDIDATE, enforced, found, matched=found.rule, revision=revision)

    def _asked(self, request: Request, seconds_left: SecondsLeft) -> Decision | str:
        """Return the decision, or why there is none."""
        left = seconds_left()
        budget = self._budget if left is None else min(self._budget, left * _SHARE_OF_CALLER)
        if budget <= 0:
            return "the caller's time was over"
        if self._is_closed:
            return _CLOSED
        until, revision = time.perf_counter() + budget, self._revision()
        if self._too_long != revision:
            found = self._asked_at_once(request, until, revision)
            if found is not None:
                return found if time.perf_counter() <= until else _above(budget)
        return self._asked_in_a_thread(request, until, budget)

    def _asked_at_once(
        self, request: Request, until: float, revision: str
    ) -> Decision | str | None:
        """Return the decision or why there is none; None where somebody has to be waited for."""
        begun = self._own_time()
        try:
            return self._at_once(request, lambda: until - time.perf_counter())
        except BaseException as exc:  # whatever it raises is its own affair
            return _failed(exc)
        finally:
            if self._own_time() - begun > self._budget:
                self._too_long = revision

    def _asked_in_a_thread(self, request: Request, until: float, budget: float) -> Decision | str:
        if not self._free.acquire(blocking=False):
            return "every thread of the candidate is still busy with an earlier request"
        try:
            asked = self._threads.submit(self._run, request, until)
        except RuntimeError:
            self._free.release()
            return _CLOSED
        try:
            return asked.result(max(0.0, until - time.perf_counter()))
        except TimeoutError:
            if asked.cancel():
                self._free.release()
            return _above(budget)

    def _run(self, request: Request, until: float) -> Decision | str:
        """Return the decision, or why there is none."""
        try:
            return self._judge(request, lambda: until - time.perf_counter())
        except BaseException as exc:  # whatever it raises is its own affair
            return _failed(exc)
        finally:
            self._free.release()


def _above(budget: float) -> str:
    return f"above the budget of {budget * 1000:.1f} ms"


def _failed(exc: BaseException) -> str:
    """Return that the candidate failed, by the name of the error only."""
    return f"the shadow evaluation failed: {type(exc).__name__}"
