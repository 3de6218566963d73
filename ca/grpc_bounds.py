"""The bounds of what a gRPC caller may send, which grpclib does not have of its own.

Theory of operation. A message begins with its length, up to 4 GiB, and grpclib reads on until it
has it all. Here the length is judged before a byte of the content is waited for: the network's
callers are strangers at that moment, and so are those of a socket that every user may open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from google.protobuf.message import DecodeError
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

MAX_MESSAGE_BYTES: Final = 256 * 1024
"""A CSR has 16 KiB at most, a token too; nothing that is asked for here is longer than this."""

_PREFIX_BYTES: Final = 5
_Method: TypeAlias = Callable[[Any], Awaitable[None]]


class Bounded:
    """A grpclib service whose callers may send messages of a bounded length."""

    def __init__(self, service: Any, limit: int = MAX_MESSAGE_BYTES) -> None:
        """Serve `service`; a message over `limit` bytes ends its call."""
        self._service = service
        self._limit = limit

    def __mapping__(self) -> Mapping[str, Handler]:
        """Return the methods of the service by their paths."""
        found: Mapping[str, Handler] = self._service.__mapping__()
        return {path: each._replace(func=self._bounded(each.func)) for path, each in found.items()}

    def _bounded(
        self, method: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Return a method that reads no further than it may."""

        async def call(stream: Any) -> None:
            # WHY a private name: grpclib has no setting for it, and this is what reads.
            stream._stream = _BoundedReader(stream._stream, self._limit)
            try:
                await method(stream)
            except (DecodeError, NotImplementedError) as exc:
                # Bytes that are no message of the type, or are compressed.
                raise GRPCError(Status.INVALID_ARGUMENT, "the message cannot be read") from exc

        return call


class _BoundedReader:
    """A call's HTTP/2 stream that is asked for no more than a bounded number of bytes."""

    def __init__(self, inner: Any, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def recv_data(self, size: int) -> bytes:
        """Return the next `size` bytes, or refuse to wait for so many."""
        if size > max(self._limit, _PREFIX_BYTES):
            # gRPC: a message larger than the receiver takes is RESOURCE_EXHAUSTED.
            raise GRPCError(
                Status.RESOURCE_EXHAUSTED,
                f"the message has {size} bytes, {self._limit} is the most",
            )
        data: bytes = await self._inner.recv_data(size)
        return data

    def __getattr__(self, name: str) -> Any:
        """Return everything else as the stream has it."""
        return getattr(self._inner, name)
