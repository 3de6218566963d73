"""Unix sockets that are a workload's proof of identity: who can open one is that workload.

The kernel checks the socket file's mode on connect, so mode 0600 lets in the owner's processes
(and root's) and nobody else.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ca.errors import SocketError

# BUDGET: sockaddr_un.sun_path is 108 bytes on Linux, the closing NUL included.
_MAX_PATH_BYTES = 107
_SOCKET_MODE = 0o600
_PROBE_SECONDS = 1.0
_WRITABLE_BY_OTHERS = 0o022


def prepare_socket_path(path: Path) -> None:
    """Make `path` free to bind: check it, make its folder, and remove a dead socket.

    Raises:
        SocketError: the path is too long, is taken by a live server or by something that is no
            socket, or lies in a folder where others may replace it.
    """
    length = len(os.fsencode(path))
    if length > _MAX_PATH_BYTES:
        raise SocketError(
            f"socket path `{path}` is {length} bytes long, expected at most {_MAX_PATH_BYTES}",
            help="the kernel allows no more; choose a folder nearer to the root",
        )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_folder(path.parent)
        _remove_dead_socket(path)
    except OSError as exc:
        raise SocketError(f"socket `{path}` cannot be prepared: {exc.strerror}") from exc


@contextmanager
def private_umask() -> Iterator[None]:
    """Let files made in the block be their owner's only, so that no socket is ever open wider.

    The umask is the process's: the block must not await.
    """
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def check_socket_mode(path: Path) -> None:
    """Set mode 0600 on a bound socket and refuse to go on without it."""
    try:
        path.chmod(_SOCKET_MODE)
    except OSError as exc:
        raise SocketError(f"socket `{path}` cannot be made private: {exc.strerror}") from exc


def remove_socket(path: Path) -> None:
    """Remove a socket file; a missing one is no error."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _check_folder(folder: Path) -> None:
    """Refuse a folder in which others may put their own socket in place of ours."""
    mode = folder.stat().st_mode
    if mode & _WRITABLE_BY_OTHERS and not mode & stat.S_ISVTX:
        raise SocketError(
            f"folder `{folder}` of a socket has mode {stat.S_IMODE(mode):04o}, others may write",
            help=f"run chmod go-w {folder}",
        )


def _remove_dead_socket(path: Path) -> None:
    """Remove a socket nobody listens on, and refuse anything else that stands there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"`{path}` exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        answer = probe.connect_ex(os.fsencode(path))
    if answer not in (errno.ECONNREFUSED, errno.ENOENT):
        raise SocketError(f"socket `{path}` is in use by another process")
    path.unlink(missing_ok=True)
