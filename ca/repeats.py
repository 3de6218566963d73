"""A request that comes twice, since its answer was lost, gets the same certificate both times.

Theory of operation. Requests are known by the digest of everything they came with: credentials,
CSR, what was asked for. Who sends the same bytes with the same credentials within a few seconds is
the same caller, so the answer of before is theirs; a join token that was used up by a lost answer
is not lost with it. While the first is under way the second waits for it. What failed is forgotten,
and so is what was issued before entries, denials or roots have changed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Final

from ca.issued import IssuedSvid
from ca.promise import Promise

# BUDGET: answers that are kept, some 4 KiB each.
_MAX_KEPT: Final = 8192


@dataclass(slots=True, kw_only=True)
class _Kept:
    """One request: the `state` of entries and roots it was judged by, and its answer."""

    state: Hashable
    at: float
    answer: Future[IssuedSvid]


class Repeats:
    """The requests of the last seconds. Any thread may ask."""

    def __init__(
        self,
        seconds: float,
        state: Callable[[], Hashable],
        *,
        count: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep answers for `seconds`, and as long as `state` returns the same; 0 keeps none.

        `count` is called for each request that is answered from here.
        """
        self._seconds = seconds
        self._state = state
        self._count = count
        self._monotonic = monotonic
        self._lock = Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def claim(self, digest: bytes) -> tuple[Future[IssuedSvid], bool]:
        """Return the answer of the request `digest`, and whether the caller has to find it.

        Who has to, sets its result, or ends it by `forget`.
        """
        state, now = self._state(), self._monotonic()
        with self._lock:
            self._drop(now)
            kept = self._kept.get(digest)
            if kept is not None and kept.state == state:
                self._count()
                return kept.answer, False
            mine = _Kept(state=state, at=now, answer=Promise())
            if self._seconds:
                self._kept[digest] = mine
                self._kept.move_to_end(digest)
            return mine.answer, True

    def forget(self, digest: bytes, answer: Future[IssuedSvid], error: BaseException) -> None:
        """End an answer with an error: the next request of the same bytes is judged anew."""
        with self._lock:
            kept = self._kept.get(digest)
            if kept is not None and kept.answer is answer:
                del self._kept[digest]
        answer.set_exception(error)

    def _drop(self, now: float) -> None:
        """Forget what is too old, or too much."""
        while self._kept:
            oldest = next(iter(self._kept.values()))
            if now - oldest.at < self._seconds and len(self._kept) < _MAX_KEPT:
                return
            self._kept.popitem(last=False)
