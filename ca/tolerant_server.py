"""grpclib's server, which bears what the standards let a client send, and leaves no call open.

Theory of operation. Behind a proxy one connection carries the calls of many callers. grpclib ends
the connection at a frame of a kind that it does not know and at a header that is not ASCII, and
leaves a call without a word for ever where it fails before the method is reached (a method that is
not named, metadata that cannot be decoded). Here the first two are borne, and such a call is reset.

Spec: RFC 9113 §4.1 (unknown frames), §8.1.1 (malformed requests); RFC 9110 §5.5 (field values).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, cast

from grpclib.protocol import EventsProcessor, H2Protocol, Stream
from grpclib.server import Handler, Server
from h2.errors import ErrorCodes
from h2.events import Event, UnknownFrameReceived
from h2.stream import StreamState

HEADER_ENCODING: Final = "latin-1"
"""How the bytes of headers become text: each byte a letter, so that there are none without one."""

_UNANSWERED: Final = frozenset({StreamState.OPEN, StreamState.HALF_CLOSED_REMOTE})


class TolerantServer(Server):
    """grpclib's server, on connections that bear more."""

    def __init__(self, services: Collection[Any]) -> None:
        """Serve `services`.

        WHY private names, here and below: grpclib has no public place for either.
        """
        super().__init__(services)
        self._h2_config.header_encoding = HEADER_ENCODING

    def _protocol_factory(self) -> H2Protocol:
        """Return the protocol of one more connection."""
        plain = super()._protocol_factory()
        return TolerantProtocol(plain.handler, plain.config, plain.h2_config)


class TolerantProtocol(H2Protocol):
    """grpclib's protocol, with a processor of events that bears more."""

    def connection_made(self, transport: Any) -> None:
        """Begin to speak."""
        super().connection_made(transport)
        self.processor = _TolerantProcessor(self.handler, self.connection)


class _TolerantProcessor(EventsProcessor):
    """Passes events on, but those that mean nothing here."""

    def process(self, event: Event) -> None:
        """Take what h2 has read."""
        # RFC 9113 §4.1: "Implementations MUST ignore and discard frames of unknown types."
        if not isinstance(event, UnknownFrameReceived):
            super().process(event)

    def register(self, stream: Stream) -> Callable[[], None]:
        """Know of a call; what is returned forgets it, and is called at the end of its task."""
        release = super().register(stream)

        def release_answered() -> None:
            release()
            self._end(stream)

        return release_answered

    def _end(self, stream: Stream) -> None:
        """Reset a call whose task has ended without an end of its own."""
        h2: Any = stream._h2_connection
        known = h2.streams.get(stream.id)
        if known is None or known.state_machine.state not in _UNANSWERED:
            return
        if cast(Handler, self.handler).closing:
            # The server ends. Who is hung up on tries again elsewhere; what is reset was wrong.
            return
        if stream.closable:
            stream.reset_nowait(ErrorCodes.INTERNAL_ERROR)
