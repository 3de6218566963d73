"""The garbage collector, held back while a policy set is built.

Theory of operation. A load makes hundreds of thousands of objects that all stay, and the
collector would walk them again and again, while nobody is answered. So it pauses while they come
to be, and they are set aside afterwards (`gc.freeze`): it never walks them. What is set aside is
freed when nothing refers to it any more, as anything else is; only cycles among it never are.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Pause:
    """How many builds go on at once, in different threads; the last one ends the pause."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._builds = 0
        self._was_on = False

    def begin(self) -> None:
        with self._lock:
            if not self._builds:
                self._was_on = gc.isenabled()
                gc.disable()
            self._builds += 1

    def end(self) -> None:
        with self._lock:
            self._builds -= 1
            if not self._was_on:
                return
            gc.freeze()
            if not self._builds:
                gc.enable()


_pause = _Pause()


@contextmanager
def collection_paused(*, collects_first: bool = False) -> Iterator[None]:
    """Pause cyclic garbage collection in all threads, and set aside what came to be meanwhile.

    `collects_first` is for whoever builds again and again. WHY: garbage that is set aside is never
    found, so that each reload would keep what became garbage since the one before.
    """
    if collects_first:
        gc.collect()
    _pause.begin()
    try:
        yield
    finally:
        _pause.end()
