"""Envoy's secret discovery service over gRPC: one servicer per workload socket.

A stream is sent a few responses ahead of its answers and no more. One whose other side has stopped
answering is ended after a while: it reconnects when it lives again, and is sent the newest then.

Spec: envoy.service.secret.v3.SecretDiscoveryService. SPIRE and Istio answer `DeltaSecrets` with
UNIMPLEMENTED; here all three methods are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio
import structlog
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

from ca.board import SecretBoard
from ca.errors import SdsRequestError
from ca.sds_session import DeltaSession, SotwSession, digest_versions, encode_response
from ca.streams import OpenStreams

_log = structlog.get_logger(__name__)
DEFAULT_ANSWER_SECONDS = 30.0
"""How long the other side of a stream may owe its answers before it is let go."""

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Response_co = TypeVar("_Response_co", covariant=True)


class Session(Protocol, Generic[_Request_contra, _Response_co]):
    """One stream's conversation; see `ca.sds_session`."""

    @property
    def is_owed(self) -> bool:
        """Whether nothing more is sent until the other side answers."""

    def receive(self, request: _Request_contra) -> None:
        """Take in one request."""

    def next_response(self) -> _Response_co | None:
        """Return what to send now, or None."""


class SecretDiscovery:
    """Answers for one workload; the socket it is bound to says who asks."""

    def __init__(
        self,
        board: SecretBoard,
        streams: OpenStreams,
        *,
        answer_seconds: float = DEFAULT_ANSWER_SECONDS,
    ) -> None:
        """Serve what is on `board`; `answer_seconds` is how long answers are waited for."""
        self._board = board
        self._streams = streams
        self._answer_seconds = answer_seconds

    async def StreamSecrets(self, requests: AsyncIterator[DiscoveryRequest], context: Any) -> None:
        """Serve a state-of-the-world stream until either side ends it."""
        with self._streams.opened("sds", str(self._board.spiffe_id)) as stream:
            session: Session[DiscoveryRequest, DiscoveryResponse]
            session = SotwSession(self._board, stream)
            await self._answer(requests, session, context)

    async def DeltaSecrets(
        self, requests: AsyncIterator[DeltaDiscoveryRequest], context: Any
    ) -> None:
        """Serve an incremental stream until either side ends it."""
        with self._streams.opened("sds-delta", str(self._board.spiffe_id)) as stream:
            session: Session[DeltaDiscoveryRequest, DeltaDiscoveryResponse]
            session = DeltaSession(self._board, stream)
            await self._answer(requests, session, context)

    async def FetchSecrets(self, request: DiscoveryRequest, context: Any) -> DiscoveryResponse:
        """Answer once with everything asked for, or UNAVAILABLE while a part is missing."""
        try:
            names = self._board.check_names(request.resource_names)
        except SdsRequestError as exc:
            return await self._refuse(exc, context)
        secrets = self._board.look(names)
        if len(secrets) < len(names):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no certificate is in force now")
        return encode_response(secrets, digest_versions(secrets), "")

    async def _answer(
        self,
        requests: AsyncIterator[_Request],
        session: Session[_Request, _Response],
        context: Any,
    ) -> None:
        """Write what `session` has to say, as requests come in and the board changes."""
        try:
            responses = _converse(self._board, requests, session, self._answer_seconds)
            async with aclosing(responses):
                async for response in responses:
                    await context.write(response)
        except SdsRequestError as exc:
            await self._refuse(exc, context)
        except TimeoutError:
            _log.warning("secret_reader_stuck", spiffe_id=str(self._board.spiffe_id))
            await context.abort(grpc.StatusCode.UNAVAILABLE, "what was sent was not answered")

    async def _refuse(self, error: SdsRequestError, context: Any) -> Any:
        """End the call: the same request would be refused again, so INVALID_ARGUMENT."""
        _log.warning(
            "secret_request_refused", error=str(error), spiffe_id=str(self._board.spiffe_id)
        )
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


async def _converse(
    board: SecretBoard,
    requests: AsyncIterator[_Request],
    session: Session[_Request, _Response],
    answer_seconds: float,
) -> AsyncGenerator[_Response, None]:
    """Yield responses until the requests end, one is wrong, or the board is closed.

    Raises:
        TimeoutError: the other side owes answers for longer than `answer_seconds`.
    """
    changed = asyncio.Event()
    deadline: float | None = None

    async def read() -> None:
        async for request in requests:
            session.receive(request)
            changed.set()

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: changed.set())
    try:
        with board.watch(changed):
            while not board.is_closed:
                changed.clear()
                if reader.done():
                    # Raises what `receive` raised.
                    reader.result()
                    return
                response = session.next_response()
                if response is not None:
                    yield response
                    continue
                if not session.is_owed:
                    deadline = None
                elif deadline is None:
                    deadline = asyncio.get_running_loop().time() + answer_seconds
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
