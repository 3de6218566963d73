"""Envoy as the listener of the server inside of it: made to listen, and sent away.

Theory of operation of the end. Health turns red; Envoy lets the port go, and then tells whoever
asks (GOAWAY with the next answer): told before, they would come back to this very port, and be
cut off when it goes. The end comes when nobody is connected any more, or when the time to
drain is over. A connection on which nothing came in that time is closed as it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import structlog

from authz.envoy_admin import EnvoyAdmin
from authz.envoy_place import STAT_PREFIX, EnvoyPlace
from authz.envoy_secrets import EnvoySecrets
from authz.errors import ListenError
from authz.grpc_over_wsgi import CheckApplication
from authz.listening import ListeningParts

_log = structlog.get_logger(__name__)
# Envoy tells of nothing; it is asked this often while it begins and ends.
_ASK_SECONDS: Final = 0.02
_START_SECONDS: Final = 60.0
# BUDGET: of the time to drain, until the port is let go.
_LET_GO_SECONDS: Final = 2.0


class EnvoyFront:
    """The running listener."""

    # Envoy bound it.
    port = 0

    def __init__(
        self,
        parts: ListeningParts,
        place: EnvoyPlace,
        hand_over: Callable[[CheckApplication], None],
    ) -> None:
        """Hand the application to Envoy, and return once Envoy listens for it.

        Raises:
            ListenError: Envoy does not come to listen.
        """
        self._pause = threading.Event()
        tls = parts.tls
        self._application = CheckApplication(
            parts.check,
            metadata_key=parts.metadata_key,
            may_ask=tls.admits_id if tls is not None and tls.names_clients else None,
            overload=parts.overload,
        )
        self._admin = EnvoyAdmin(place.admin, STAT_PREFIX)
        with ExitStack() as stack:
            if tls is not None:
                secrets = EnvoySecrets(tls, place.secrets)
                stack.callback(secrets.close)
                secrets.start()
            hand_over(self._application)
            if not self._wait_until(self._admin.is_live, _START_SECONDS):
                raise ListenError("Envoy does not come to listen")
            self._open = stack.pop_all()
        self._overload = parts.overload
        self._overload.refused_before = self._admin.refused

    def stop(self, drain_seconds: float) -> None:
        """Turn health red, send clients away, let open checks finish."""
        self._application.turn_red()
        refused = self._admin.refused()
        self._overload.refused_before = lambda: refused
        with self._open:
            until = time.monotonic() + drain_seconds
            self._admin.let_port_go()
            if not self._wait_until(
                lambda: not self._admin.has_port(), min(_LET_GO_SECONDS, drain_seconds)
            ):
                _log.error("port_not_let_go")
            if not self._admin.send_away():
                _log.error("clients_not_sent_away")
            self._wait_until(
                lambda: not self._admin.connections(), max(0.0, until - time.monotonic())
            )
            self._application.wait_until_answered(max(0.0, until - time.monotonic()))

    def _wait_until(self, holds: Callable[[], bool], seconds: float) -> bool:
        until = time.monotonic() + seconds
        while not holds():
            if time.monotonic() >= until:
                return False
            self._pause.wait(_ASK_SECONDS)
        return True
