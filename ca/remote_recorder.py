"""The recorder of a signing worker: the CA's own process records, and answers when it is durable.

Theory of operation. One process writes ledger and chain for all workers. So no two writers wait
for one file's lock, and a thread that comes back from the disk does not wait for an interpreter
that is busy signing. What is signed in one turn of the event loop is sent together.

INVARIANT: as the recorder's: a future that is resolved without an error stands for a row and a line
on the disk. A worker whose link is lost has nothing recorded, and answers nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock, get_ident
from typing import Any, Final

from ca.errors import StoreError
from ca.recorder import Recording
from ca.worker_wire import Message, encode_recording, read_error

# BUDGET: beyond this the other process cannot keep up; callers are told at once.
_MAX_WAITING: Final = 4096


class RemoteRecorder:
    """Sends recordings. Any thread may record; `settle` and `lose` are the event loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[Message], None]) -> None:
        """Record by `send`, which is called in the thread of `loop`: the one that calls this."""
        self._loop = loop
        self._loop_thread = get_ident()
        self._send = send
        self._lock = Lock()
        self._last = 0
        self._outbox: list[Sequence[Any]] = []
        self._waiting: dict[int, Future[None]] = {}
        self._fault: str | None = None
        self._is_lost = False

    def record(self, recording: Recording) -> Future[None]:
        """Return the future of `recording`: no error once it is durable; as `Recorder.record`.

        Raises:
            StoreError: too many wait already, or the other process is gone.
        """
        with self._lock:
            if self._is_lost:
                raise StoreError("the process that records is gone")
            if len(self._waiting) >= _MAX_WAITING:
                raise StoreError(f"{_MAX_WAITING} issuances wait for the disk already")
            self._last = number = self._last + 1
            recording.done.set_running_or_notify_cancel()
            self._waiting[number] = recording.done
            self._outbox.append(encode_recording(number, recording))
            is_first = len(self._outbox) == 1
        if is_first:
            if get_ident() == self._loop_thread:
                self._loop.call_soon(self._flush)
            else:
                self._loop.call_soon_threadsafe(self._flush)
        return recording.done

    def health(self) -> str | None:
        """Return why the ledger or the chain could not be written last time, or None."""
        return self._fault

    def settle(self, message: Message) -> None:
        """Resolve the futures that a message `recorded` is about."""
        for number, said in message["done"]:
            with self._lock:
                done = self._waiting.pop(number)
            if said is None:
                self._fault = None
                done.set_result(None)
                continue
            error = read_error(said)
            # A serial number that is taken says nothing of the disk.
            if type(error) is StoreError:
                self._fault = str(error)
            done.set_exception(error)

    def lose(self) -> None:
        """End every future that waits: the other process is gone, and what it wrote is unknown."""
        with self._lock:
            self._is_lost = True
            waiting, self._waiting = self._waiting, {}
        self._fault = "the process that records is gone"
        for done in waiting.values():
            done.set_exception(StoreError(self._fault))

    def _flush(self) -> None:
        """Send what was recorded since the last time; in the loop's thread."""
        with self._lock:
            outbox, self._outbox = self._outbox, []
        if outbox:
            self._send({"do": "record", "recordings": outbox})
