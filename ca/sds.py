"""Envoy's secret discovery service over gRPC: one servicer per workload socket.

Spec: envoy.service.secret.v3.SecretDiscoveryService. SPIRE and Istio answer `DeltaSecrets` with
UNIMPLEMENTED; here all three methods are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
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

_log = structlog.get_logger(__name__)
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
_Request_contra = TypeVar("_Request_contra", contravariant=True)
_Response_co = TypeVar("_Response_co", covariant=True)


class Session(Protocol, Generic[_Request_contra, _Response_co]):
    """One stream's conversation; see `ca.sds_session`."""

    def receive(self, request: _Request_contra) -> None:
        """Take in one request."""

    def next_response(self) -> _Response_co | None:
        """Return what to send now, or None."""


class SecretDiscovery:
    """Answers for one workload; the socket it is bound to says who asks."""

    def __init__(self, board: SecretBoard) -> None:
        """Serve what is on `board`."""
        self._board = board

    async def StreamSecrets(
        self, requests: AsyncIterator[DiscoveryRequest], context: Any
    ) -> AsyncIterator[DiscoveryResponse]:
        """Serve a state-of-the-world stream until either side ends it."""
        session: Session[DiscoveryRequest, DiscoveryResponse] = SotwSession(self._board)
        async for response in self._answered(requests, session, context):
            yield response

    async def DeltaSecrets(
        self, requests: AsyncIterator[DeltaDiscoveryRequest], context: Any
    ) -> AsyncIterator[DeltaDiscoveryResponse]:
        """Serve an incremental stream until either side ends it."""
        session: Session[DeltaDiscoveryRequest, DeltaDiscoveryResponse] = DeltaSession(self._board)
        async for response in self._answered(requests, session, context):
            yield response

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

    async def _answered(
        self,
        requests: AsyncIterator[_Request],
        session: Session[_Request, _Response],
        context: Any,
    ) -> AsyncIterator[_Response]:
        """Yield what `session` has to say, as requests come in and the board changes."""
        try:
            async for response in _converse(self._board, requests, session):
                yield response
        except SdsRequestError as exc:
            await self._refuse(exc, context)

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
) -> AsyncIterator[_Response]:
    """Yield responses until the requests end, one is wrong, or the board is closed."""
    changed = asyncio.Event()

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
                if response is None:
                    await changed.wait()
                else:
                    yield response
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
