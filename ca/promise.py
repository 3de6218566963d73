"""A future that is kept for certain, of as few steps as that takes.

The library's can be cancelled, counts who waits, and wakes by a condition: half of what an issuance
spent between its signature and its answer. Nobody cancels what is being recorded, and who waits
does so by a callback mostly. `concurrent.futures.wait` looks into the library's own and takes none
of these.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from threading import Event, Lock
from typing import Any, TypeVar

import structlog

_Result = TypeVar("_Result")
_log = structlog.get_logger(__name__)


class Promise(Future[_Result]):
    """A future without cancelling; any thread may set it, once, and any may wait."""

    # INVARIANT: what is kept changes under the lock, and once only.

    def __init__(self) -> None:
        """Promise something."""
        # WHY not the parent's: it makes a condition, which is what costs. Nothing of it is used.
        self._lock = Lock()
        self._is_kept = False
        self._kept: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future[_Result]], object]] = []
        self._event: Event | None = None

    def __repr__(self) -> str:
        """Return how it stands."""
        return f"<Promise {'kept' if self._is_kept else 'open'}>"

    def cancel(self) -> bool:
        """Return that it cannot be cancelled."""
        return False

    def cancelled(self) -> bool:
        """Return that it was not cancelled."""
        return False

    def running(self) -> bool:
        """Return whether it is still to be kept."""
        return not self._is_kept

    def done(self) -> bool:
        """Return whether it is kept."""
        return self._is_kept

    def set_running_or_notify_cancel(self) -> bool:
        """Return that somebody works on it."""
        return True

    def add_done_callback(self, fn: Callable[[Future[_Result]], object]) -> None:
        """Call `fn` with this future once it is kept, in the thread that keeps it; or now."""
        with self._lock:
            if not self._is_kept:
                self._callbacks.append(fn)
                return
        self._call(fn)

    def result(self, timeout: float | None = None) -> _Result:
        """Return what was promised; blocks until then.

        Raises:
            TimeoutError: that took longer than `timeout` seconds.
            BaseException: the error that it ended with.
        """
        error = self.exception(timeout)
        if error is None:
            kept: _Result = self._kept
            return kept
        try:
            raise error
        finally:
            # The error holds this frame, which would hold the error.
            del error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error that it ended with, or None; blocks until then.

        Raises:
            TimeoutError: that took longer than `timeout` seconds.
        """
        if not self._is_kept:
            self._wait(timeout)
        return self._error

    def set_result(self, result: _Result) -> None:
        """Keep it.

        Raises:
            InvalidStateError: it is kept already.
        """
        self._keep(result, None)

    def set_exception(self, exception: BaseException | None) -> None:
        """End it with an error.

        Raises:
            InvalidStateError: it is kept already.
        """
        self._keep(None, exception)

    def _keep(self, result: Any, error: BaseException | None) -> None:
        """Keep it, and tell everybody."""
        with self._lock:
            if self._is_kept:
                raise InvalidStateError("the promise is kept already")
            self._kept, self._error, self._is_kept = result, error, True
            callbacks, self._callbacks = self._callbacks, []
        if self._event is not None:
            self._event.set()
        for fn in callbacks:
            self._call(fn)

    def _call(self, fn: Callable[[Future[_Result]], object]) -> None:
        """Tell one."""
        try:
            fn(self)
        except Exception:
            # As the library does: who is told next must be told, whatever this one makes of it.
            _log.exception("promise_callback_failed")

    def _wait(self, timeout: float | None) -> None:
        """Return once it is kept.

        Raises:
            TimeoutError: that took longer than `timeout` seconds.
        """
        with self._lock:
            if self._is_kept:
                return
            event = self._event = self._event or Event()
        if not event.wait(timeout):
            raise TimeoutError
