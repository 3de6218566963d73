"""Addresses to listen on: looked up, found free, and held for workers that share them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from authz.errors import ListenError

UNIX: Final = "unix://"


def number_of(host: str) -> str:
    """Return the number of a host, for who listens on numbers.

    Raises:
        ListenError: nobody knows it.
    """
    try:
        known = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        raise ListenError(f"`{host}` is no address to listen on: {exc.strerror}") from exc
    return str(known[0][4][0])


def cannot_listen(listen: str, exc: OSError) -> ListenError:
    """Return an error with what the system says of an address."""
    # `socket.create_server` adds what it was about to do.
    why = (exc.strerror or str(exc)).partition(" (while ")[0]
    return ListenError(f"`{listen}` cannot be listened on: {why}")


def check_that_it_is_free(listen: str) -> None:
    """Refuse an address that cannot be listened on: what Envoy and gRPC say of it says less.

    Raises:
        ListenError: somebody listens there, or nobody can.
    """
    try:
        if listen.startswith(UNIX):
            _try_socket(Path(listen.removeprefix(UNIX)))
            return
        host, _, port = listen.rpartition(":")
        host = number_of(host.strip("[]"))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, int(port)), family=family).close()
    except OSError as exc:
        raise cannot_listen(listen, exc) from exc


def _try_socket(path: Path) -> None:
    """Bind a Unix socket, and leave nothing of it."""
    remove_stale_socket(path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(path))
    path.unlink()


def hold_port(address: str) -> socket.socket:
    """Return a socket that holds the port for the workers, and takes no connection itself.

    Raises:
        ListenError: somebody else listens there.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # WHY twice: with SO_REUSEPORT it would bind beside a server that is there already.
        socket.create_server((host, int(port)), family=family).close()
        held = socket.socket(family)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, int(port)))
    except OSError as exc:
        raise cannot_listen(address, exc) from exc
    return held


def remove_stale_socket(path: Path) -> None:
    """Remove a socket file that nobody listens on.

    Raises:
        ListenError: somebody does, or the path is something else.
    """
    if not path.exists():
        return
    if not path.is_socket():
        raise ListenError(f"`{path}` exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as exc:
            raise ListenError(f"`{path}` cannot be probed: {exc.strerror}") from exc
    raise ListenError(f"`{path}` is in use by another process")
