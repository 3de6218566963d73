"""Decisions to a service that takes OPA's decision logs: batches of events, in gzip, over HTTP.

A batch is acknowledged by a status of 200 to 299 and by nothing else; until then its lines
come again. One too large for the service is halved, down to one event; one that is too large
alone is stood for by its id, its answer and its place in the record.

Spec: OPA, "Decision Log Service API"; RFC 9110 section 10.2.3 (`Retry-After`), section 15.5.14.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from audit.chain import parse_line
from audit.record import Kind
from audit.sinks.opa_event import event_of, to_bytes, too_large_event
from audit.sinks.sink import SinkError

_TOO_LARGE: Final = 413
_OK: Final = range(200, 300)
_FIRST_RATIO: Final = 4  # a guess: how much smaller events are in gzip
_GROWTH: Final = 1.5
_LEAST_BYTES: Final = 4096


class Post(Protocol):
    """Sends a body; see `audit.sinks.http_post`."""

    def __call__(self, body: bytes) -> tuple[int, float]:
        """Return the status and what `Retry-After` asks for, in seconds; raises SinkError."""

    def close(self) -> None:
        """Close the connection; a call that waits in another thread fails."""


class UploadSink:
    """Uploads the decisions of one log."""

    def __init__(
        self, name: str, post: Post, *, max_body_bytes: int, labels: Mapping[str, str]
    ) -> None:
        """Keep where to post to; `max_body_bytes` bounds a body in gzip."""
        self._name = name
        self._post = post
        self._max_body_bytes = max_body_bytes
        self._labels = labels
        self._batch_bytes = float(_FIRST_RATIO * max_body_bytes)

    @property
    def name(self) -> str:
        """What tells it from others."""
        return self._name

    @property
    def batch_bytes(self) -> int:
        """How many bytes of lines make about one body."""
        return int(self._batch_bytes)

    def send(self, lines: Sequence[bytes]) -> int:
        """Return how many of the lines are safe at the service; lines of no decision are left out.

        Raises:
            SinkError: the service did not take the batch.
        """
        documents = [parse_line(raw).document for raw in lines]
        return self._send(documents)

    def close(self) -> None:
        """Close the connection."""
        self._post.close()

    def _send(self, documents: Sequence[dict[str, Any]]) -> int:
        decisions = [each for each in documents if each.get("kind") == Kind.DECISION]
        if not decisions:
            return len(documents)
        body = _body([event_of(each, self._labels) for each in decisions])
        if len(body) > self._max_body_bytes and len(decisions) > 1:
            return self._send_half(documents)
        status, wait = self._post(body) if len(body) <= self._max_body_bytes else (_TOO_LARGE, 0.0)
        if status == _TOO_LARGE and len(decisions) > 1:
            return self._send_half(documents)
        if status == _TOO_LARGE:
            status, wait = self._post(_body([too_large_event(decisions[0], self._labels)]))
        elif len(body) < self._max_body_bytes / 2:
            most = 64.0 * self._max_body_bytes
            self._batch_bytes = min(self._batch_bytes * _GROWTH, most)
        if status not in _OK:
            raise SinkError(f"the service answered {status}", wait_seconds=wait)
        return len(documents)

    def _send_half(self, documents: Sequence[dict[str, Any]]) -> int:
        self._batch_bytes = max(self._batch_bytes / 2, float(_LEAST_BYTES))
        return self._send(documents[: len(documents) // 2])


def _body(events: Sequence[Mapping[str, Any]]) -> bytes:
    text = b"[" + b",".join(map(to_bytes, events)) + b"]"
    return gzip.compress(text, compresslevel=6, mtime=0)
