"""The threads that answer checks: in which order, and how long a check waited for one of them.

Theory of operation. Who came first is answered first, while checks are in time. When the queue
stands (`authz.overload`), that order would have every check answered late or refused late: all
waited behind those before them. Then threads take the newest, which is in time, and the oldest,
which is refused, in turns, until the oldest is in time again.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from authz.overload import Overload

_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Call:
    future: Future[Any]
    function: Callable[[], Any]
    came: float


class CheckPool(Executor):
    """A pool whose threads know of the call they work on whether it waited too long."""

    def __init__(
        self,
        threads: int,
        overload: Overload | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Have so many threads; without `overload` no call waits too long."""
        self._overload = overload
        self._clock = clock
        self._own = threading.local()
        # INVARIANT: a token for each call, so that who has taken a token finds a call.
        self._calls: deque[_Call] = deque()
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._turns = itertools.count()
        self._threads = [
            threading.Thread(target=self._work, name=f"check_{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Have a thread call the function, as soon as it is its turn."""
        future: Future[_T] = Future()
        call = _Call(future, lambda: function(*args, **kwargs), self._clock())
        self._calls.append(call)
        self._tokens.put(True)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once every call was taken; one that is under way is not waited for."""
        for _ in self._threads:
            self._tokens.put(False)
        if cancel_futures:
            for call in tuple(self._calls):
                call.future.cancel()
        if wait:
            for thread in self._threads:
                thread.join()

    def waited_too_long(self) -> bool:
        """Whether the call of this thread is to be refused; of any other thread it is not."""
        return bool(getattr(self._own, "is_late", False))

    def _work(self) -> None:
        while self._tokens.get():
            call, self._own.is_late = self._take()
            if not call.future.set_running_or_notify_cancel():
                continue
            try:
                result = call.function()
            except BaseException as exc:  # whoever asked for the call hears of it
                call.future.set_exception(exc)
            else:
                call.future.set_result(result)
            del call

    def _take(self) -> tuple[_Call, bool]:
        """Return the call whose turn it is, and whether it is to be refused."""
        overload = self._overload
        if overload is None:
            return self._calls.popleft(), False
        now = self._clock()
        try:
            stands = overload.stands(now - self._calls[0].came)
        except IndexError:  # others have taken all between the token and here, but for ours
            stands = False
        is_newest = stands and next(self._turns) % 2 == 1
        call = self._calls.pop() if is_newest else self._calls.popleft()
        return call, stands and overload.is_late(now - call.came)
