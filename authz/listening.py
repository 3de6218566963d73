"""What a server needs of whatever listens for its checks; grpcio or Envoy may do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from authz.listener_tls import ListenerTls
from authz.overload import Overload
from authz.settings import ListenSettings

Check = Callable[..., bytes]
"""A message to the answer; never raises.

With a metadata key, its values are a second argument; a `timed` server's adds `seconds=`, how
long the caller still waits (None: nobody knows).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListeningParts:
    """What answers checks, and on what terms; `check` is told the seconds that are left.

    With `shares_port` other processes listen on the same port.
    """

    listen: ListenSettings
    check: Check
    metadata_key: str
    tls: ListenerTls | None
    overload: Overload
    shares_port: bool


class Listener(Protocol):
    """Something that listens, from its making on."""

    @property
    def port(self) -> int:
        """The port that it bound; 0 where another bound it or there is none."""

    def stop(self, drain_seconds: float) -> None:
        """Turn health red, let open checks finish, and stop."""


OpenListener = Callable[[ListeningParts], Listener]
"""Begins to listen, and returns once checks are answered."""
