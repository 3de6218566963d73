"""The record's lines as they are, to a file descriptor: standard output, for log collectors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from audit.sinks.sink import SinkError

_BATCH_BYTES: Final = 64 * 1024


class StdoutSink:
    """Writes whole lines. A reader that stands still holds this sink and nothing else."""

    def __init__(self, fd: int) -> None:
        """Keep the descriptor, which stays the caller's."""
        self._fd = fd
        self._rest = b""

    @property
    def name(self) -> str:
        """What tells it from others."""
        return "stdout"

    @property
    def batch_bytes(self) -> int:
        """How many bytes of lines are written at once."""
        return _BATCH_BYTES

    def send(self, lines: Sequence[bytes]) -> int:
        """Return how many of the lines were written.

        Raises:
            SinkError: the descriptor takes nothing more.
        """
        view = memoryview(self._rest + b"".join(lines))
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as exc:
            # The lines come again: what was begun is ended first, so that they stay lines.
            self._rest = b"\n" if len(view) else b""
            raise SinkError(f"standard output: {exc.strerror}") from exc
        self._rest = b""
        return len(lines)

    def close(self) -> None:
        """Leave the descriptor open: it is the process's."""
