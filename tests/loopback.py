"""Servers on loopback: a port for one that must be told it, and channels to one that is on its way.

A channel that finds nobody there looks again after a second; with `EAGER` after 20 ms.
"""

from __future__ import annotations

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
