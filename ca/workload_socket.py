"""The Workload API's Unix socket: anyone on the machine may connect, the kernel says who it was.

Unlike the socket of one workload (`ca.sockets`), whoever opens this one proves nothing by it, and
need not be kept out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from ca.errors import SocketError
from ca.grpc_companions import with_companions
from ca.sockets import prepare_socket_path, remove_socket
from ca.tolerant_server import TolerantServer
from ca.unix_peer import PeerSocket
from ca.wire_messages import WORKLOAD_API_POOL
from ca.workload_api import WorkloadApi, WorkloadApiParts

_SOCKET_MODE: Final = 0o666
_FOLDER_MODE: Final = 0o755
# BUDGET: a thousand workloads that all reconnect when the CA comes back.
_BACKLOG: Final = 1024
_DRAIN_SECONDS: Final = 2.0


@asynccontextmanager
async def serve_workload_api(path: Path, parts: WorkloadApiParts) -> AsyncIterator[None]:
    """Serve the Workload API on the Unix socket `path` while the block runs.

    Raises:
        SocketError: the socket cannot be bound.
    """
    listener = _bind(path)
    server = TolerantServer(with_companions(WorkloadApi(parts), WORKLOAD_API_POOL, parts.is_able))
    try:
        await server.start(sock=listener, backlog=_BACKLOG)
        yield
    finally:
        # Streams end with UNAVAILABLE, at which clients reconnect; those that do not read are cut.
        parts.changes.close()
        await _for_a_while(parts.changes.drained())
        server.close()
        await _for_a_while(_hung_up(listener))
        # From Python 3.12 on this waits for every connection to end.
        await _for_a_while(server.wait_closed())
        listener.close()
        remove_socket(path)


async def _hung_up(listener: PeerSocket) -> None:
    """End the connections and return when the event loop has read their ends."""
    while listener.connections:
        listener.hang_up()
        await asyncio.sleep(0)


async def _for_a_while(ending: Awaitable[object]) -> None:
    """Wait for an end, but not for long."""
    with suppress(TimeoutError):
        await asyncio.wait_for(ending, _DRAIN_SECONDS)


def _bind(path: Path) -> PeerSocket:
    """Return the bound socket, open to everyone."""
    try:
        path.parent.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        prepare_socket_path(path)
        listener = PeerSocket()
    except OSError as exc:
        raise SocketError(f"socket `{path}` cannot be made: {exc.strerror}") from exc
    try:
        listener.bind(str(path))
        path.chmod(_SOCKET_MODE)
    except OSError as exc:
        listener.close()
        raise SocketError(f"socket `{path}` cannot be bound: {exc.strerror}") from exc
    return listener
