"""A queue of things to use in turn: who waits longest is served first.

WHY not the standard ones: there a thread that puts back and takes again passes those who
wait, and under load one of them waits out its whole time.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Safe from many threads."""

    def __init__(self) -> None:
        """Begin empty."""
        self._lock = threading.Lock()
        self._items: deque[T] = deque()
        self._waiting: deque[_Ticket[T]] = deque()

    def put(self, item: T) -> None:
        """Hand an item to who waits longest, or keep it."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().give(item)
            else:
                self._items.append(item)

    def take(self, seconds: float) -> T:
        """Return an item.

        Raises:
            TimeoutError: there was none within `seconds`.
        """
        with self._lock:
            if self._items:
                return self._items.pop()
            ticket: _Ticket[T] = _Ticket()
            self._waiting.append(ticket)
        if ticket.wait(seconds):
            return ticket.items[0]
        with self._lock:
            # It may have come between the end of the wait and this lock.
            if ticket.items:
                return ticket.items[0]
            self._waiting.remove(ticket)
        raise TimeoutError

    def drain(self) -> list[T]:
        """Return every item that nobody has taken."""
        with self._lock:
            found, self._items = list(self._items), deque()
            return found


class _Ticket(Generic[T]):
    """One who waits."""

    __slots__ = ("_given", "items")

    def __init__(self) -> None:
        self.items: list[T] = []
        self._given = threading.Lock()
        self._given.acquire()

    def give(self, item: T) -> None:
        self.items.append(item)
        self._given.release()

    def wait(self, seconds: float) -> bool:
        return self._given.acquire(timeout=max(seconds, 0))
