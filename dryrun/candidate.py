"""A whole candidate policy set, asked beside the enforced one and never in its way.

Theory of operation. The enforced answer is made first. The candidate is then asked in a
thread of its own, and waited for no longer than its budget, nor longer than half of what
the caller still waits. One that fails, is late or still hangs on earlier requests is marked
as an error; a thread that hangs is not waited for again, so that the worst candidate costs
its budget once for each of its threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from dryrun.shadow import beside, without_verdict
from policies.decision import Decision, ShadowVerdict
from policies.request import Request

CANDIDATE: Final = "candidate"
"""The name under which the verdict of the candidate set stands."""

# The other half is for the answer's way back.
_SHARE_OF_CALLER: Final = 0.5

SecondsLeft = Callable[[], float | None]
"""Returns what is left of a time, None when nobody waits."""

Judge = Callable[[Request, SecondsLeft], Decision]
"""The walk of a request under the candidate set; may raise and may take long."""


class CandidateShadow:
    """Asks a candidate set. Safe from many threads; `close` when no more is asked."""

    def __init__(
        self, judge: Judge, *, budget_seconds: float, threads: int, revision: Callable[[], str]
    ) -> None:
        """Ask `judge` in as many `threads`; `revision` tells which set it judges by."""
        self._judge = judge
        self._budget = budget_seconds
        self._revision = revision
        self._free = threading.Semaphore(threads)
        self._threads = ThreadPoolExecutor(threads, "candidate")

    def close(self) -> None:
        """Take no more requests; what runs is left to its end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def verdict(
        self, request: Request, enforced: Decision, seconds_left: SecondsLeft
    ) -> ShadowVerdict:
        """Return what the candidate says, or a mark that it said nothing in time.

        INVARIANT: never raises; takes no longer than the budget.
        """
        return replace(self._asked(request, enforced, seconds_left), revision=self._revision())

    def _asked(
        self, request: Request, enforced: Decision, seconds_left: SecondsLeft
    ) -> ShadowVerdict:
        left = seconds_left()
        budget = self._budget if left is None else min(self._budget, left * _SHARE_OF_CALLER)
        if budget <= 0:
            return without_verdict(CANDIDATE, enforced, "the caller's time was over")
        if not self._free.acquire(blocking=False):
            why = "every thread of the candidate is still busy with an earlier request"
            return without_verdict(CANDIDATE, enforced, why)
        until = time.perf_counter() + budget
        try:
            asked = self._threads.submit(self._run, request, until)
        except RuntimeError:
            self._free.release()
            return without_verdict(CANDIDATE, enforced, "the candidate was closed")
        return self._awaited(asked, enforced, budget)

    def _run(self, request: Request, until: float) -> Decision | str:
        """Return the decision, or the name of what the candidate raised."""
        try:
            return self._judge(request, lambda: until - time.perf_counter())
        except BaseException as exc:  # whatever it raises is its own affair
            return type(exc).__name__
        finally:
            self._free.release()

    def _awaited(
        self, asked: Future[Decision | str], enforced: Decision, budget: float
    ) -> ShadowVerdict:
        try:
            found = asked.result(budget)
        except TimeoutError:
            if asked.cancel():
                self._free.release()
            why = f"above the budget of {budget * 1000:.1f} ms"
            return without_verdict(CANDIDATE, enforced, why)
        if isinstance(found, str):
            why = f"the shadow evaluation failed: {found}"
            return without_verdict(CANDIDATE, enforced, why)
        return beside(CANDIDATE, enforced, found, matched=found.rule)
