"""More checks than can be answered: some are refused at once, so that the others are in time.

Theory of operation. A burst is answered, late as it may be. When every check for a while
has waited longer than the target, and there always was one that waited, the queue stands: then
each that waited too long is refused without a look at it, until one is met that did not.
Envoy is told that we failed (`error_response`), not that the request is denied. A refusal costs
a fraction of an answer, and those that are answered have waited for the target's time at most.

A check that is refused so is not on record, for nothing was decided; the metric counts it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from google.rpc import code_pb2

_log = structlog.get_logger(__name__)
_UNAVAILABLE: Final = 503
_BODY: Final = "the authorizer is overloaded"
# How long the queue must have stood before anybody is refused.
_PATIENCE_SECONDS: Final = 0.1


class Overload:
    """Says which checks are refused; for all threads. `refused` counts them."""

    def __init__(
        self,
        target_seconds: float,
        *,
        patience_seconds: float = _PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Hold the wait to the target; 0 refuses nobody."""
        self.refused = 0
        # What whoever listens refused before this could hear of it.
        self.refused_before: Callable[[], int] = lambda: 0
        self.answer = _refusal()
        self._target = target_seconds
        self._patience = patience_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._stands_since: float | None = None
        self._looked_at = clock()
        self._is_told = False

    def stands(self, waited: float) -> bool:
        """Whether a queue whose first check waited so many seconds has stood for a while."""
        if waited <= self._target or not self._target:
            if self._stands_since is not None:
                self._recover()
            return False
        now = self._clock()
        with self._lock:
            # Who came after the last look found nobody who waited: that queue stands no more.
            was_empty = now - waited > self._looked_at
            self._looked_at = now
            if self._stands_since is None or was_empty:
                self._stands_since = now
            return now - self._stands_since >= self._patience

    def is_late(self, waited: float) -> bool:
        """Whether a check that waited so many seconds is refused while a queue stands; counted."""
        if waited <= self._target:
            return False
        with self._lock:
            self.refused += 1
            is_first, self._is_told = not self._is_told, True
        if is_first:
            _log.warning("overloaded", waited_milliseconds=round(waited * 1000))
        return True

    def refuses(self, waited: float) -> bool:
        """Whether the first check of a queue, which waited so many seconds, is refused; counted."""
        return self.stands(waited) and self.is_late(waited)

    def _recover(self) -> None:
        with self._lock:
            was_told, self._is_told = self._is_told, False
            self._stands_since = None
        if was_told:
            _log.info("no_longer_overloaded", refused=self.refused)


def _refusal() -> bytes:
    """Return the serialized answer to a check that is not looked at."""
    response = CheckResponse()
    response.status.code = code_pb2.UNAVAILABLE
    response.status.message = "overloaded"
    response.error_response.status.code = _UNAVAILABLE
    response.error_response.body = _BODY
    response.dynamic_metadata.update({"effect": "deny", "reason": "overloaded"})
    return bytes(response.SerializeToString())
