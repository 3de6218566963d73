"""The listener's certificate as Envoy takes it up: over SDS, from files that are replaced whole.

Theory of operation. What counts is `ListenerTls`: it looks at the operator's files and keeps
the last good ones. What it shows is written into the SDS files, which Envoy watches. They are
in a folder that is this process's alone and goes with it, and hold the key: Envoy would read
the operator's files when they are half replaced, and takes no descriptors (`/proc`).
"""

from __future__ import annotations

import base64
import json
import os
import threading
from pathlib import Path
from typing import Any, Final

import structlog

from authz.envoy_place import CERTIFICATE_SECRET, ROOTS_SECRET, secret_file
from authz.listener_tls import ListenerTls, ShownTls

_log = structlog.get_logger(__name__)
_LOOK_SECONDS: Final = 1.0
_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


class EnvoySecrets:
    """Keeps Envoy's secrets as the listener's TLS shows them."""

    def __init__(self, tls: ListenerTls, folder: Path) -> None:
        """Write them to the SDS files of the folder."""
        self._tls = tls
        self._folder = folder
        self._written: ShownTls | None = None
        self._stop = threading.Event()
        self._write()

    def start(self) -> None:
        """Look for newer ones every second, until it is closed."""
        threading.Thread(target=self._follow, name="secrets", daemon=True).start()

    def close(self) -> None:
        """Follow the files no longer."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            try:
                self._write()
            except OSError as exc:
                # Envoy shows the ones before; the next look tries again.
                _log.error("certificate_not_handed_over", error=exc.strerror)

    def _write(self) -> None:
        """Hand what is shown to Envoy, if it is news."""
        shown = self._tls.shown()
        if shown is self._written:
            return
        if shown.roots:
            # Order counts: clients of new roots may come as soon as they see the new certificate.
            self._replace(
                ROOTS_SECRET, {"validation_context": {"trusted_ca": _inline(shown.roots)}}
            )
        pair = {"certificate_chain": _inline(shown.chain), "private_key": _inline(shown.key)}
        self._replace(CERTIFICATE_SECRET, {"tls_certificate": pair})
        self._written = shown

    def _replace(self, name: str, value: dict[str, Any]) -> None:
        path = secret_file(self._folder, name)
        whole = path.with_suffix(".new")
        text = json.dumps({"resources": [{"@type": _TYPE, "name": name, **value}]})
        with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        whole.replace(path)


def _inline(content: bytes) -> dict[str, str]:
    return {"inline_bytes": base64.b64encode(content).decode("ascii")}
