"""What a stream was sent and what it said to that: nonces, acknowledgements, refusals.

Theory of operation. Answers come in the order of the responses, so one that cites a nonce also
closes every older one. A nonce that was never given out, or was closed before, is stale.

Spec: Envoy xDS protocol, "ACK/NACK and resource type instance version".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count

import structlog
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from ca.board import SecretBoard
from ca.secrets import VersionedSecret
from ca.streams import OpenStream

_log = structlog.get_logger(__name__)
# BUDGET: a peer's refusal is quoted in the log; this much of it says enough.
_MAX_QUOTED = 512
# BUDGET: what a stream may be sent without an answer, so that a reader who has stopped is not
# written to for ever: a few secrets of a few KiB stay below HTTP/2's window of 64 KiB.
_MAX_UNANSWERED = 8


@dataclass(frozen=True, slots=True)
class _Sent:
    """One response that was not answered yet; `sequence` is that of the roots in it, or 0."""

    version: str
    sequence: int
    at: datetime


class Answers:
    """The ledger of one stream."""

    def __init__(self, board: SecretBoard, stream: OpenStream | None) -> None:
        """Start with nothing sent; `stream` is kept up to date where there is one."""
        self._board = board
        self._stream = stream
        self._nonces = count(1)
        self._open: dict[str, _Sent] = {}
        self.last_nonce = ""

    @property
    def is_owed(self) -> bool:
        """Whether so much is unanswered that nothing more may be sent."""
        return len(self._open) >= _MAX_UNANSWERED

    def note_sent(self, secrets: Sequence[VersionedSecret], version: str) -> str:
        """Return the nonce of the response that is about to carry `secrets`."""
        nonce = str(next(self._nonces))
        sequence = max((secret.sequence for secret in secrets), default=0)
        self._open[nonce] = _Sent(version, sequence, self._board.now())
        self.last_nonce = nonce
        self._show_wait()
        return nonce

    def note_names(self, names: Sequence[str]) -> None:
        """Say whether roots are among what the stream is subscribed to."""
        if self._stream is not None:
            self._stream.carries_roots = any(name in self._board.own_trust_names for name in names)

    def take(self, request: DiscoveryRequest | DeltaDiscoveryRequest) -> None:
        """Take in what a request says of an earlier response, if it says anything."""
        if self._stream is not None and request.node.id:
            self._stream.node = request.node.id[:_MAX_QUOTED]
        sent = self._open.get(request.response_nonce)
        if sent is None:
            return
        for nonce in list(self._open):
            del self._open[nonce]
            if nonce == request.response_nonce:
                break
        self._show_wait()
        # xDS: a request with `error_detail` refuses (NACKs) the response whose nonce it carries.
        if request.HasField("error_detail"):
            self._note_refusal(request, sent)
        else:
            self._note_acceptance(sent)

    def _note_refusal(self, request: DiscoveryRequest | DeltaDiscoveryRequest, sent: _Sent) -> None:
        """Log a refusal and show it."""
        why = request.error_detail.message[:_MAX_QUOTED] or "no reason given"
        if self._stream is not None:
            self._stream.refusal = why
        _log.error(
            "secret_refused_by_proxy",
            error=why,
            spiffe_id=str(self._board.spiffe_id),
            version=sent.version,
            node=request.node.id[:_MAX_QUOTED],
        )

    def _note_acceptance(self, sent: _Sent) -> None:
        """Show that the other side holds what it was sent."""
        if self._stream is not None:
            self._stream.refusal = ""
            self._stream.acknowledged = max(self._stream.acknowledged, sent.sequence)

    def _show_wait(self) -> None:
        """Show since when the oldest response waits for its answer."""
        if self._stream is not None:
            oldest = next(iter(self._open.values()), None)
            self._stream.unanswered_since = oldest.at if oldest else None
