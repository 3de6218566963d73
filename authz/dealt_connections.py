"""Whom the kernel deals new connections to, of the workers that listen on one port.

Theory of operation. The kernel resets what a listening socket holds when it closes: connections
that nobody took yet, and those whose handshake is under way. So that there are none, another
socket of the port is dealt all new ones before. A program of the kernel's (classic BPF, which asks
for no privilege) names a socket by its place in the group that shares the port. Nobody tells a
socket its place: it is found by connections of its own, from ports that the program tells
from others. A place that nobody has means what no program means: any of them.

Spec: socket(7), SO_ATTACH_REUSEPORT_CBPF.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final

# Spec: Linux `asm-generic/socket.h`; Python has no names for them.
_SO_ATTACH_REUSEPORT_CBPF: Final = 51
_SO_DETACH_REUSEPORT_BPF: Final = 68

# Spec: Linux `linux/bpf_common.h`, `linux/filter.h`: load two bytes, jump if equal, return, and
# where the head of the network's layer begins.
_LOAD: Final = 0x28
_JUMP_IF_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_NETWORK_HEAD: Final = -0x100000 & 0xFFFFFFFF
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
# WHY no options: what connects from here sends none.
_IPV4_BYTES, _IPV6_BYTES = 20, 40
_LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
_NO_PLACE: Final = 0xFFFF

# Of a place that nobody has, one connection in so many sockets comes here all the same: of two, all
# of these once in 4,096 times.
_TRIALS: Final = 12
# BUDGET: until a connection is taken, by a busy worker too.
_TAKEN_SECONDS: Final = 1.0
_ASK_SECONDS: Final = 0.002

_Instruction = tuple[int, int, int, int]
"""An operation, how far to jump where it holds and where not, and its operand."""


def take_new_connections(port: int, others: int) -> bool:
    """Have all new connections to a port dealt to this process; return whether they are.

    `others` is how many more sockets are thought to listen there; who came last is behind them.
    Whatever the system refuses is a no: a program that is left of it tells one port of ours, for
    which nobody connects any more, from all others.
    """
    with contextlib.suppress(OSError), _listening(port) as own:
        for place in (others, *reversed(range(others))):
            if all(_comes_here(own, place) for _ in range(_TRIALS)):
                _attach(own, [(_RETURN, 0, 0, place)])
                return True
    return False


def deal_to_all(port: int) -> bool:
    """Have new connections dealt to all sockets of a port again; return whether they are."""
    with contextlib.suppress(OSError), _listening(port) as own:
        _detach(own)
        return True
    return False


def _comes_here(own: socket.socket, place: int) -> bool:
    """Whether a connection that is dealt to a place is taken by this process."""
    host, port = own.getsockname()[:2]
    address = ip_address(host)
    target = _LOOPBACK[address.version] if address.is_unspecified else host
    with socket.socket(own.family) as trial:
        trial.settimeout(_TAKEN_SECONDS)
        trial.bind((target, 0))
        its_port = trial.getsockname()[1]
        program = [
            (_LOAD, 0, 0, _NETWORK_HEAD + _head_bytes(target)),
            (_JUMP_IF_EQUAL, 0, 1, its_port),
            (_RETURN, 0, 0, place),
            (_RETURN, 0, 0, _NO_PLACE),
        ]
        _attach(own, program)
        trial.connect((target, port))
        return _is_taken(port, its_port)


def _head_bytes(target: str) -> int:
    """Return how long the head of a packet to an address is; one that is mapped goes by IPv4."""
    address = ip_address(target)
    is_ipv6 = isinstance(address, IPv6Address) and address.ipv4_mapped is None
    return _IPV6_BYTES if is_ipv6 else _IPV4_BYTES


def _is_taken(port: int, peer_port: int) -> bool:
    """Whether this process takes a connection, within the time for it."""
    pause, until = threading.Event(), time.monotonic() + _TAKEN_SECONDS
    while time.monotonic() < until:
        for each in _own_sockets():
            # What only listens has no peer.
            with contextlib.suppress(OSError):
                if (each.getsockname()[1], each.getpeername()[1]) == (port, peer_port):
                    return True
        pause.wait(_ASK_SECONDS)
    return False


def _listening(port: int) -> socket.socket:
    """Return a socket of this process that listens on a port, for the caller to close.

    Raises:
        OSError: there is none, or no room for one more descriptor.
    """
    for each in _own_sockets():
        if (
            each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            and each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            and each.getsockname()[1] == port
        ):
            # WHY not `each.dup()`: it would have who accepts on this socket wait.
            return socket.socket(fileno=os.dup(each.fileno()))
    raise FileNotFoundError


def _own_sockets() -> Iterator[socket.socket]:
    """Yield the process's TCP sockets, open until the next one is asked for."""
    for path in Path("/proc/self/fd").iterdir():
        # It may be closed by now, or never have been a socket: others of the process go on.
        with contextlib.suppress(OSError), ExitStack() as stack:
            duplicate = os.dup(int(path.name))
            stack.callback(os.close, duplicate)
            found = socket.socket(fileno=duplicate)
            stack.callback(found.detach)
            if (
                found.family in (socket.AF_INET, socket.AF_INET6)
                and found.type == socket.SOCK_STREAM
            ):
                yield found


def _attach(own: socket.socket, program: Sequence[_Instruction]) -> None:
    """Give the group of a socket a program, in place of the one that it has.

    Spec: Linux `struct sock_fprog`: a number of instructions, and where they are.
    """
    code = array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
    told = struct.pack("@HP", len(program), code.buffer_info()[0])
    own.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, told)


def _detach(own: socket.socket) -> None:
    with contextlib.suppress(FileNotFoundError):  # there is none
        own.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
