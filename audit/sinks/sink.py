"""The seam of sinks: lines of the record go out, or an error says when to try again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from audit.errors import AuditError


class SinkError(AuditError):
    """A sink did not take lines; `wait_seconds` is how long it asked to be left alone."""

    code = "audit.sink"

    def __init__(self, why: str, *, wait_seconds: float = 0.0) -> None:
        """Keep the one clause that says why."""
        super().__init__(why)
        self.wait_seconds = wait_seconds


class Sink(Protocol):
    """Takes lines of one log, in order. One thread calls it.

    `batch_bytes` is how many bytes of lines it wants at once (at least one line comes).
    """

    @property
    def name(self) -> str:
        """What tells it from the others of its log: letters, digits, `-`."""

    @property
    def batch_bytes(self) -> int:
        """How many bytes of lines to read for one `send`."""

    def send(self, lines: Sequence[bytes]) -> int:
        """Return how many of the lines, from the first, are now safe there; at least one.

        Raises:
            SinkError: none was taken, as far as is known; they come again.
        """

    def close(self) -> None:
        """Let go of connections; a `send` that another thread waits in ends."""
