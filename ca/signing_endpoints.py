"""The signing endpoints brought up: Istio's certificate service and REST, each on its TLS port."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import structlog

from ca.delivery_settings import SigningSettings
from ca.errors import ListenError
from ca.front import Front
from ca.gathered_writes import GatheringServer
from ca.grpc_companions import with_companions
from ca.https_server import HttpsServer
from ca.istio_service import IstioCertificateService
from ca.own_identity import OwnIdentity
from ca.rest_signing import signing_routes
from ca.wire_messages import ISTIO_CA_POOL

_log = structlog.get_logger(__name__)
_DRAIN_SECONDS: Final = 2.0


@asynccontextmanager
async def serve_signing(
    settings: SigningSettings,
    front: Front,
    identity: OwnIdentity,
    is_able: Callable[[], bool],
    *,
    shares_port: bool = False,
) -> AsyncIterator[None]:
    """Serve what `settings` names while the block runs; `is_able` says whether we can sign now.

    With `shares_port` others may listen for Istio's service on the same port.

    Raises:
        ListenError: an address cannot be listened on.
    """
    async with AsyncExitStack() as stack:
        if settings.istio_listen is not None:
            service = IstioCertificateService(front)
            services = with_companions(service, ISTIO_CA_POOL, is_able)
            listener = listen_on(settings.istio_listen, shares_port=shares_port)
            await stack.enter_async_context(_serve_istio(listener, services, identity))
        if settings.rest_listen is not None:
            server = HttpsServer(settings.rest_listen, identity.context, signing_routes(front))
            stack.push_async_callback(asyncio.to_thread, server.close)
            _log.info("rest_signing_ready", port=server.port)
        yield


@asynccontextmanager
async def _serve_istio(
    listener: socket.socket, services: Collection[Any], identity: OwnIdentity
) -> AsyncIterator[None]:
    """Serve Istio's certificate service while the block runs."""
    # A context of its own: it is changed in place.
    context = identity.new_context()
    server = GatheringServer(services)
    await server.start(sock=listener, ssl=context)
    keeping = asyncio.create_task(identity.keep_fresh(context))
    _log.info("istio_signing_ready", port=listener.getsockname()[1])
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        server.close()
        # From Python 3.12 on this waits for clients to hang up, which they need not do.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), _DRAIN_SECONDS)


def listen_on(listen: str, *, shares_port: bool = False) -> socket.socket:
    """Return a socket that listens on `HOST:PORT`, ready for short answers.

    With `shares_port` other processes of ours may do so too.

    Raises:
        ListenError: it cannot be had.
    """
    listener = bind_to(listen, shares_port=shares_port)
    listener.listen()
    return listener


def bind_to(listen: str, *, shares_port: bool = False) -> socket.socket:
    """Return a socket that has `HOST:PORT`, and takes no connection yet.

    Raises:
        ListenError: it cannot be had.
    """
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    # WHY the protocol by its number: asyncio and grpclib turn Nagle's algorithm off only where
    # they see it, and with it an answer in several frames waits 40 ms for the client's word.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shares_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host.strip("[]"), int(port)))
    except OSError as exc:
        listener.close()
        why = exc.strerror or str(exc)
        raise ListenError(f"`{listen}` cannot be listened on: {why}") from exc
    return listener
