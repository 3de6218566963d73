"""The threads that answer checks, and how long a check waited for one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class CheckPool(ThreadPoolExecutor):
    """A pool that knows of the call a thread works on how long it waited."""

    def __init__(self, threads: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Have so many threads, started as they are needed."""
        super().__init__(threads, "check")
        self._clock = clock
        self._own = threading.local()

    def submit(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Have a thread call the function, as soon as one is free."""
        came = self._clock()

        def timed() -> _T:
            self._own.waited = self._clock() - came
            return function(*args, **kwargs)

        return super().submit(timed)

    def waited(self) -> float:
        """Return the seconds that the call of this thread waited; 0 in any other thread."""
        return float(getattr(self._own, "waited", 0.0))
