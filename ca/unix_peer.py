"""Who is at the other end of a Unix socket, as the kernel knows it, noted when they connect.

Theory of operation. The kernel keeps the process, user and groups of whoever called `connect`. A
process ID alone is no proof, for it is given out anew when its process ends: so at the very accept
the process is pinned, by a pidfd where the kernel has one for sockets (Linux 6.5), and by its open
folder in `/proc`, which never shows a later process of the same number. Everything read about the
process goes through that folder, and counts only if the process is still alive afterwards.

The peer is handed to the server in place of the connection's address, which Unix sockets lack.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

_UCRED: Final = struct.Struct("=iII")
_SO_PEERGROUPS: Final = 59
_SO_PEERPIDFD: Final = 77
# BUDGET: as many as Python lets the kernel write; who is in more gets no selectors of groups.
_MAX_GROUPS: Final = 256
_GID_BYTES: Final = 4
# BUDGET: a connection takes three descriptors; so many of one user leave enough for the others.
DEFAULT_MAX_PER_USER: Final = 1024
"""How many connections one user may have at once."""

# proc(5): the 22nd field of `stat`; the 2nd is in brackets and may hold anything.
_START_TIME_AFTER_NAME: Final = 19
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class UnixPeer:
    """The process that connected. `groups` are its supplementary groups.

    `proc` is its pinned folder in `/proc`, -1 where it was gone already; `pidfd` is -1 where the
    kernel has none for sockets; `started` is when it began, in clock ticks since boot.
    """

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    proc: int = field(default=-1, repr=False)
    pidfd: int = field(default=-1, repr=False)
    started: str = ""

    def is_alive(self) -> bool:
        """Return whether the very process that connected is still there."""
        if self.pidfd >= 0 and select.select([self.pidfd], [], [], 0)[0]:
            return False
        return self.proc >= 0 and self.started != "" and _start_time(self.proc) == self.started


class PeerSocket(socket.socket):
    """A listening Unix socket whose `accept` returns the peer in place of its address."""

    def __init__(self, *, max_per_user: int = DEFAULT_MAX_PER_USER) -> None:
        """Make the socket; it is not bound yet. No user gets more than `max_per_user` at once."""
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._max_per_user = max_per_user
        self._users: weakref.WeakKeyDictionary[socket.socket, int] = weakref.WeakKeyDictionary()

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection and who made it; one too many comes with its end."""
        connection, _ = super().accept()
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, gid = _UCRED.unpack(raw)
        others = sum(1 for each in self.connections if self._users[each] == uid)
        self._users[connection] = uid
        if others >= self._max_per_user:
            # The event loop reads the end, and closes it as any other.
            _hang_up(connection)
            return connection, UnixPeer(pid=pid, uid=uid, gid=gid)
        return connection, peer_of(connection)

    def hang_up(self) -> None:
        """End every connection: both sides read its end next."""
        for connection in self.connections:
            _hang_up(connection)

    @property
    def connections(self) -> tuple[socket.socket, ...]:
        """The connections that are open still."""
        return tuple(each for each in self._users if each.fileno() >= 0)


def _hang_up(connection: socket.socket) -> None:
    """End a connection; both sides read its end next."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def peer_of(connection: socket.socket) -> UnixPeer:
    """Return who is at the other end of a connected Unix socket, pinned from now on."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    pidfd, proc = _pidfd(connection), _open_proc(pid)
    peer = UnixPeer(
        pid=pid,
        uid=uid,
        gid=gid,
        groups=_groups(connection),
        proc=proc,
        pidfd=pidfd,
        started=_start_time(proc) if proc >= 0 else "",
    )
    for descriptor in (pidfd, proc):
        if descriptor >= 0:
            weakref.finalize(peer, os.close, descriptor)
    return peer


def _pidfd(connection: socket.socket) -> int:
    """Return the kernel's own handle of the peer's process, or -1 where it has none."""
    with suppress(OSError):
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    return -1


def _groups(connection: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups that the peer had when it connected."""
    with suppress(OSError):
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_GROUPS * _GID_BYTES)
        return struct.unpack(f"={len(raw) // _GID_BYTES}I", raw)
    return ()


def _open_proc(pid: int) -> int:
    """Return a descriptor of a process's folder, or -1 when there is none."""
    # A process of another PID namespace shows as 0.
    if pid <= 0:
        return -1
    with suppress(OSError):
        return os.open(f"/proc/{pid}", _FOLDER_FLAGS)
    return -1


def _start_time(proc: int) -> str:
    """Return when the process of a pinned folder began, empty when it has ended."""
    try:
        descriptor = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return ""
    with os.fdopen(descriptor, "rb") as file, suppress(OSError):
        fields = file.read().rpartition(b")")[2].split()
        # A process that has ended and was not yet waited for is nobody.
        if len(fields) > _START_TIME_AFTER_NAME and fields[0] not in (b"Z", b"X"):
            return fields[_START_TIME_AFTER_NAME].decode()
    return ""
