"""News that streams wait for: something in the bundle or in the entries is other than before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Changes:
    """Wakes every stream of one event loop; any thread may announce."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake what waits on `loop`."""
        self._loop = loop
        self._waiting: dict[asyncio.Event, None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_closed = False

    def announce(self) -> None:
        """Wake everyone soon; after the loop has ended there is nobody to wake."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def close(self) -> None:
        """Tell everyone who waits that nothing more will come; on the loop only."""
        self.is_closed = True
        self._wake()

    @contextmanager
    def watch(self, event: asyncio.Event) -> Iterator[None]:
        """Set `event` at every change while the block runs."""
        self._waiting[event] = None
        self._idle.clear()
        try:
            yield
        finally:
            del self._waiting[event]
            if not self._waiting:
                self._idle.set()

    async def drained(self) -> None:
        """Return when nobody waits any more."""
        await self._idle.wait()

    def _wake(self) -> None:
        """Wake everyone who waits, in the order of arrival."""
        for event in self._waiting:
            event.set()
