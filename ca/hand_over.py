"""Futures of the recorder's thread, handed to an event loop a group at a time.

What becomes durable does so in groups. Waking the loop once for each future of a group costs more
than the signatures do; here the first of a group wakes it, and it finds all that are done by then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

_Result = TypeVar("_Result")


async def hand_over(future: Future[_Result]) -> _Result:
    """Return the result of a future that another thread resolves, without blocking the loop."""
    loop = asyncio.get_running_loop()
    gate = _gates.get(loop)
    if gate is None:
        gate = _gates[loop] = _Gate(loop)
    result: _Result = await gate.pass_on(future)
    return result


class _Gate:
    """The one way into a loop from other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake `loop`, without keeping it alive when it is done with."""
        self._loop = ref(loop)
        self._lock = Lock()
        self._done: deque[tuple[Future[Any], asyncio.Future[Any]]] = deque()
        self._is_woken = False

    def pass_on(self, source: Future[Any]) -> asyncio.Future[Any]:
        """Return a future of the loop that ends as `source` does."""
        target = asyncio.get_running_loop().create_future()
        source.add_done_callback(lambda done: self._put(done, target))
        return target

    def _put(self, source: Future[Any], target: asyncio.Future[Any]) -> None:
        """Lay down what is done, and wake the loop; what it resolves itself ends at once."""
        loop = self._loop()
        if loop is not None and loop is asyncio._get_running_loop():
            _end_as(source, target)
            return
        with self._lock:
            self._done.append((source, target))
            if self._is_woken:
                return
            self._is_woken = True
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._settle)
        except RuntimeError:
            # The loop is closed: nobody waits there any more.
            self._done.clear()

    def _settle(self) -> None:
        """Resolve what lies there; in the loop's thread."""
        with self._lock:
            self._is_woken = False
            done, self._done = self._done, deque()
        for source, target in done:
            _end_as(source, target)


def _end_as(source: Future[Any], target: asyncio.Future[Any]) -> None:
    """End a future of the loop as `source` ended, unless nobody waits for it; in its thread."""
    if target.cancelled():
        return
    error = source.exception()
    if error is None:
        target.set_result(source.result())
    else:
        target.set_exception(error)


_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, _Gate] = WeakKeyDictionary()
