"""Who listens at this moment, and what each has acknowledged: the evidence that rotation waits for.

Every streaming service registers its streams here, for its status as well as for its count. A
stream of a protocol without acknowledgements (the Workload API) never has any: it makes a rotation
wait the stated time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(slots=True, kw_only=True)
class OpenStream:
    """One open stream; its service keeps it up to date.

    `acknowledged` is the highest sequence of the trust bundle that the other side confirmed.
    `unanswered_since` is when the oldest response went out that nobody answered yet. `refusal` is
    what the other side had against the last response (a NACK), empty when nothing.
    """

    kind: str
    spiffe_id: str
    node: str = ""
    carries_roots: bool = False
    acknowledged: int = 0
    unanswered_since: datetime | None = None
    refusal: str = ""


class OpenStreams:
    """Every open stream of this process; for one event loop only."""

    def __init__(self) -> None:
        """Start with none."""
        self._streams: dict[int, OpenStream] = {}

    @contextmanager
    def opened(self, kind: str, spiffe_id: str) -> Iterator[OpenStream]:
        """Count a stream while the block runs."""
        stream = OpenStream(kind=kind, spiffe_id=spiffe_id)
        self._streams[id(stream)] = stream
        try:
            yield stream
        finally:
            del self._streams[id(stream)]

    def __iter__(self) -> Iterator[OpenStream]:
        """Iterate over a copy, oldest first."""
        return iter(tuple(self._streams.values()))

    def __len__(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def by_kind(self) -> dict[str, int]:
        """Return how many streams of each kind are open."""
        return dict(Counter(stream.kind for stream in self._streams.values()))

    def carriers(self) -> tuple[OpenStream, ...]:
        """Return the streams that roots are sent on."""
        return tuple(stream for stream in self if stream.carries_roots)

    def lagging(self, sequence: int) -> tuple[OpenStream, ...]:
        """Return the streams with roots that have not confirmed bundle `sequence` or a later."""
        return tuple(stream for stream in self.carriers() if stream.acknowledged < sequence)

    def slow(self, now: datetime, patience: timedelta) -> tuple[OpenStream, ...]:
        """Return the streams that have left a response unanswered for longer than `patience`."""
        return tuple(
            stream
            for stream in self
            if stream.unanswered_since is not None and now - stream.unanswered_since > patience
        )
