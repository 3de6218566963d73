"""The socket by which the command line asks a CA that runs: one JSON line there, one back.

It lies in the state folder, mode 0600 in a folder of mode 0700: who can open it could as well read
the state. Its path may be longer than a socket's may be, so it is reached through the folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import structlog

from ca.errors import CaError, ControlError
from ca.running import RunningCa
from ca.sockets import private_umask

_log = structlog.get_logger(__name__)
_NAME = "control.sock"
# BUDGET: a request is a few words; an answer is a status with a line for each workload.
_MAX_REQUEST = 64 << 10
_MAX_ANSWER = 16 << 20
_ANSWER_SECONDS = 30.0


@asynccontextmanager
async def control_socket(ca: RunningCa) -> AsyncIterator[None]:
    """Answer the command line while the context is entered.

    Raises:
        ControlError: the socket cannot be bound.
    """
    with _folder(ca.settings.state_folder) as folder:
        listener = _bind(folder)
        server = await asyncio.start_unix_server(
            lambda reader, writer: _answer(ca, reader, writer), sock=listener, limit=_MAX_REQUEST
        )
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()
            # A disk that has turned read-only keeps it; the next start takes its place.
            with suppress(OSError):
                _remove(folder)


def ask(state_folder: Path, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what the running CA answers to `request`, or None when none is running.

    Raises:
        ControlError: it refused, or gave no answer that can be read.
    """
    try:
        with _folder(state_folder) as folder, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            try:
                connection.connect(f"{folder}/{_NAME}")
            except (FileNotFoundError, ConnectionRefusedError):
                return None
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = _read_line(connection)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ControlError(f"the CA gave no answer: {exc.strerror or exc}") from exc
    if "error" in answer:
        raise ControlError(str(answer["error"]), help=str(answer.get("help", "")))
    return answer


async def _answer(
    ca: RunningCa, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry out the one request of a connection."""
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            line = await reader.readline()
            writer.write(json.dumps(_carry_out(ca, line)).encode() + b"\n")
            await writer.drain()
    except (OSError, ValueError, TimeoutError) as exc:
        _log.warning("control_request_failed", error=str(exc))
    finally:
        writer.close()


def _carry_out(ca: RunningCa, line: bytes) -> Mapping[str, Any]:
    """Return the answer to one request."""
    try:
        request = json.loads(line)
        command = ca.commands[request["do"]]
    except (ValueError, KeyError, TypeError):
        return {"error": "the request is not one of this CA's", "code": "ca.control"}
    try:
        return command(request)
    except CaError as exc:
        return {"error": str(exc), "code": exc.code, "help": exc.help}


def _read_line(connection: socket.socket) -> Mapping[str, Any]:
    """Return the JSON object of one line."""
    content = b""
    while not content.endswith(b"\n"):
        part = connection.recv(65_536)
        if not part or len(content) > _MAX_ANSWER:
            raise ControlError("the CA gave no answer", help="look into its log")
        content += part
    answer = json.loads(content)
    if not isinstance(answer, dict):
        raise ControlError("the CA's answer cannot be read")
    return answer


def _bind(folder: str) -> socket.socket:
    """Return the bound socket; a dead one of before is replaced, for the state's lock is ours."""
    _remove(folder)
    listener = socket.socket(socket.AF_UNIX)
    try:
        with private_umask():
            listener.bind(f"{folder}/{_NAME}")
    except OSError as exc:
        listener.close()
        raise ControlError(f"the control socket cannot be bound: {exc.strerror}") from exc
    return listener


@contextmanager
def _folder(path: Path) -> Iterator[str]:
    """Yield a short name of a folder, good while the block runs."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _remove(folder: str) -> None:
    """Remove the socket file, if there is one."""
    Path(folder, _NAME).unlink(missing_ok=True)
