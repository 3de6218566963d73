"""Servers on loopback: HTTP, a port for one that must be told it, channels to one on its way.

A channel that finds nobody there looks again after a second; with `EAGER` after 20 ms.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from examples.demo.loopback import find_free_ports

EAGER: Final = tuple(
    (f"grpc.{name}_reconnect_backoff_ms", 20) for name in ("initial", "min", "max")
)


def free_port() -> int:
    """Return a port of loopback that nobody listens on.

    WHY not one that the system chose a moment ago: it would give the same one to the test beside
    this one before the server is up.
    """
    return find_free_ports(1)[0]


@contextmanager
def http_server(
    handler: Callable[..., BaseHTTPRequestHandler],
    port: int = 0,
    tls: ssl.SSLContext | None = None,
) -> Iterator[ThreadingHTTPServer]:
    """Run an HTTP server of `handler`; its port is one that is free, unless it is given."""
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
