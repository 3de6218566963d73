"""A real HTTP bundle service that can be slow, wrong, silent or down, one resource a server."""

from __future__ import annotations

import copy
import hashlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

from opa_bridge.bundle_service import MEDIA_TYPE
from tests.loopback import http_server


@dataclass
class Seen:
    """A request as it came: path and headers by lower-case name."""

    path: str
    headers: dict[str, str]


@dataclass
class BundleServer:
    """What the service answers; tests change it between requests.

    `mode`: `ok`, `drop` (close without an answer), `stall` (headers, then silence), `drip`
    (a byte now and then), `cut` (half of the body), `gzip-lie` (more bytes promised),
    `always` (200 whatever the ETag), `redirect` (to `target`); `status` other than 200 wins.
    """

    raw: bytes = b""
    status: int = 200
    mode: str = "ok"
    target: str = ""
    content_type: str = "application/gzip"
    token: str = ""
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _closing: threading.Event = field(default_factory=threading.Event)

    @property
    def etag(self) -> str:
        """The ETag of what is served."""
        return f'"{hashlib.sha256(self.raw).hexdigest()[:16]}"'

    def serve(self, raw: bytes | None = None, **changes: Any) -> None:
        """Serve something else from now on; long polls that wait are answered."""
        with self._changed:
            if raw is not None:
                self.raw = raw
            for name, value in changes.items():
                setattr(self, name, value)
            self._changed.notify_all()

    def now(self) -> BundleServer:
        """Return what is served, all of one moment."""
        with self._changed:
            return copy.copy(self)

    def wait_for_requests(self, count: int, seconds: float = 10) -> None:
        """Wait until so many requests have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, seconds), self.seen

    def close(self) -> None:
        """Answer whoever waits."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()

    def note(self, seen: Seen) -> None:
        """Remember a request."""
        with self._changed:
            self.seen.append(seen)
            self._changed.notify_all()

    def hold(self, etag: str, seconds: float) -> None:
        """Wait until there is something else than `etag`, as long polls do."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.etag != etag or self.status != 200 or self._closing.is_set(), seconds
            )

    def rest(self, seconds: float = 30) -> bool:
        """Stay silent; return whether the server is closing."""
        return self._closing.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    """Answers as its service says at the moment."""

    protocol_version = "HTTP/1.1"
    timeout = 30

    def __init__(self, service: BundleServer, *connection: Any) -> None:
        """Answer one connection; the base class does so at once."""
        self._service = service
        super().__init__(*connection)

    def do_GET(self) -> None:
        service = self._service
        headers = {name.lower(): value for name, value in self.headers.items()}
        service.note(Seen(self.path, headers))
        self.close_connection = True
        if service.token and headers.get("authorization") != f"Bearer {service.token}":
            return self._answer(401)
        asked = headers.get("if-none-match", "")
        wait = headers.get("prefer", "").partition("wait=")[2]
        if wait and service.content_type == MEDIA_TYPE and asked:
            service.hold(asked, float(wait))
        now = service.now()
        if now.status != 200:
            return self._answer(now.status)
        if now.mode == "drop":
            return None
        if now.mode == "redirect" and not self.path.startswith("/final"):
            return self._answer(302, location=now.target)
        if asked == now.etag and now.mode != "always":
            return self._answer(304, etag=now.etag)
        return self._body(now)

    def _body(self, now: BundleServer) -> None:
        raw = now.raw
        more = {"gzip-lie": 10}.get(now.mode, 0)
        self.send_response(200)
        self.send_header("content-type", now.content_type)
        self.send_header("etag", now.etag)
        self.send_header("content-length", str(len(raw) + more))
        self.end_headers()
        self.wfile.flush()
        if now.mode == "stall":
            self._service.rest()
        elif now.mode == "drip":
            for byte in raw:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self._service.rest(0.05):
                    return
        else:
            self.wfile.write(raw[: len(raw) // 2] if now.mode == "cut" else raw)

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "0")
        self.end_headers()

    def handle_one_request(self) -> None:
        """A client that went away is part of the tests."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def bundle_server(
    raw: bytes = b"", *, tls: ssl.SSLContext | None = None, **state: Any
) -> Iterator[BundleServer]:
    """Yield a running service."""
    service = BundleServer(raw=raw, **state)
    scheme = "http" if tls is None else "https"
    with http_server(partial(_Handler, service), tls=tls) as server:
        service.url = f"{scheme}://127.0.0.1:{server.server_port}/bundles/b"
        try:
            yield service
        finally:
            service.close()
