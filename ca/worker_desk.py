"""The desk at which the CA's own process attends to one signing worker: it records for it.

Theory of operation. What a worker sends goes to the recorder as if it had been issued here. The
recorder's thread lays down what is done, and sends a group's answers together.
"""

from __future__ import annotations

import json
import socket
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, Final

from ca.errors import StoreError
from ca.recorder import Recorder
from ca.worker_wire import Message, encode, outcome, read_recording

# BUDGET: what a worker may leave unread: answers to everything that may wait for the disk.
_BUFFER_BYTES: Final = 1 << 20
# BUDGET: how long a worker that reads nothing may hold up the records of all.
_SEND_SECONDS: Final = 2


class WorkerDesk:
    """Records what comes from a worker; `hear` is told of every other message.

    Any thread may `send` and `flush`; one thread attends.
    """

    def __init__(
        self, pair: socket.socket, recorder: Recorder, hear: Callable[[Message], None]
    ) -> None:
        """Attend to the worker at the other end of `pair`; its owner closes it afterwards."""
        pair.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        timeout = struct.pack("ll", _SEND_SECONDS, 0)
        pair.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._pair = pair
        self._recorder = recorder
        self._hear = hear
        self._lock = Lock()
        self._done: deque[tuple[int, Any]] = deque()

    def attend(self) -> None:
        """Take what the worker sends until it hangs up; blocks."""
        # A worker that dies may leave half a line.
        with suppress(OSError), self._pair.makefile("rb", buffering=_BUFFER_BYTES) as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    return
                message = json.loads(line)
                if message["do"] == "record":
                    self._record(message)
                else:
                    self._hear(message)

    def send(self, message: Message) -> None:
        """Tell the worker something; one that is gone, or does not read, is hung up on."""
        try:
            with self._lock:
                self._pair.sendall(encode(message))
        except OSError:
            # Part of a line may have been sent, so nothing can follow it.
            with suppress(OSError):
                self._pair.shutdown(socket.SHUT_RDWR)

    def flush(self) -> None:
        """Send the answers that lie here; called after each group of the recorder."""
        done = []
        # WHY no look before: the recorder's thread and the one that attends may both be here.
        with suppress(IndexError):
            while True:
                done.append(self._done.popleft())
        if done:
            self.send({"do": "recorded", "done": done})

    def _record(self, message: Message) -> None:
        """Pass recordings on, their answers to be laid down here."""
        recordings = []
        for said in message["recordings"]:
            recording = read_recording(said)
            recording.done.add_done_callback(partial(self._lay_down, said[0]))
            recordings.append(recording)
        try:
            self._recorder.record_together(recordings)
        except StoreError as exc:
            self._done += [outcome(said[0], exc) for said in message["recordings"]]
            self.flush()

    def _lay_down(self, number: int, done: Future[None]) -> None:
        """Keep an answer until the group is through."""
        self._done.append(outcome(number, done.exception()))
