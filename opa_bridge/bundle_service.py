"""HTTP to a bundle service: one request at a time, each bounded in time and size.

Theory of operation. A socket's timeout bounds one read, so a server that sends a byte now and
then, or holds a long poll, would keep the thread for ever. One timer a request, and whoever
stops the watch, shut the socket down: the read that waits returns at once, and fails.

Spec: OPA, "Bundles", section "Bundle Service API"; RFC 7240 (`Prefer`); RFC 9110 section 13
(`If-None-Match`), section 15.4 (redirects); RFC 6750 section 5.3.
"""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

from opa_bridge.errors import PolicyBundleError
from opa_bridge.opa_address import is_loopback

MEDIA_TYPE: Final = "application/vnd.openpolicyagent.bundles"
# BUDGET: a service redirects once, to where its files are.
MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_MAX_TOKEN_BYTES: Final = 64 * 1024
_MAX_ETAG: Final = 1024
_STEP_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleService:
    """Where a bundle is fetched and how. Files are read for every request, so they may rotate.

    `url` is the whole address of the bundle. `timeout_seconds` is for one request, a long
    poll's wait not counted.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    timeout_seconds: float = 30.0
    max_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleAnswer:
    """What a service said: `raw` None means that the bundle of the ETag is still the one."""

    raw: bytes | None
    etag: str
    is_long_poll: bool


def check_bundle_url(url: str, *, has_token: bool) -> None:
    """Refuse an address that is not http(s), or that a token would go to in the clear.

    Raises:
        PolicyBundleError: why.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _failed("the address holds more than printable ASCII")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as exc:
        raise _failed("the address has no host and port that can be read") from exc
    if parts.scheme not in ("http", "https") or not host:
        raise _failed("the address is not `http://host` or `https://host`")
    if parts.username is not None or parts.fragment:
        raise _failed("the address holds a user, password or fragment", "use `tokenFile`")
    # RFC 6750 section 5.3: "Always use TLS (https)": who reads the token speaks for us.
    if has_token and parts.scheme == "http" and not is_loopback(host):
        raise _failed("the token would go to the service in the clear", "use `https://`")


class BundleClient:
    """Fetches one bundle. One thread fetches; any may stop it."""

    def __init__(self, service: BundleService) -> None:
        """Keep the address.

        Raises:
            PolicyBundleError: nothing is fetched from there.
        """
        check_bundle_url(service.url, has_token=service.token_file is not None)
        self._service = service
        self._lock = threading.Lock()
        self._connection: HTTPConnection | None = None
        self._is_stopped = False
        self._late = threading.Event()

    def fetch(self, etag: str, wait_seconds: int | None = None) -> BundleAnswer:
        """Return the bundle unless it is the one of `etag`; a long poll waits for another.

        Raises:
            PolicyBundleError: there is no such answer; the message quotes nothing of it.
        """
        service = self._service
        seconds = service.timeout_seconds + (wait_seconds or 0)
        self._late = late = threading.Event()
        timer = threading.Timer(seconds, self._abort, [late])
        timer.daemon = True
        timer.start()
        try:
            return self._follow(_headers(etag, wait_seconds))
        except (OSError, HTTPException, ValueError) as exc:
            if self._is_stopped:
                raise _failed("stopped") from exc
            if late.is_set() or isinstance(exc, TimeoutError):
                raise _failed(f"`{service.url}` gave no whole answer in {seconds:g} s") from exc
            raise _failed(f"`{service.url}` could not be fetched: {_why(exc)}") from exc
        finally:
            timer.cancel()
            self._drop()

    def stop(self) -> None:
        """End the request under way, and let none begin."""
        self._is_stopped = True
        self._abort(self._late)

    def _follow(self, headers: dict[str, str]) -> BundleAnswer:
        """Return the answer at the end of at most `MAX_REDIRECTS` redirects."""
        url = self._service.url
        for _ in range(MAX_REDIRECTS + 1):
            response = self._ask(url, headers)
            target = response.getheader("location")
            if response.status not in _REDIRECTS or target is None:
                return self._read(response)
            following = urljoin(url, target)
            check_bundle_url(following, has_token=False)
            if url.startswith("https:") and not following.startswith("https:"):
                raise _failed(f"`{url}` redirects from https to something else")
            url = following
            self._drop()
        raise _failed(f"`{self._service.url}` redirects more than {MAX_REDIRECTS} times")

    def _ask(self, url: str, headers: dict[str, str]) -> HTTPResponse:
        parts = urlsplit(url)
        connection = self._connected(url)
        sent = dict(headers)
        # The token is for the service, not for whom it redirects to.
        if self._service.token_file is not None and _origin(url) == _origin(self._service.url):
            sent["Authorization"] = f"Bearer {_read_token(self._service.token_file)}"
        path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        connection.request("GET", path, headers=sent)
        return connection.getresponse()

    def _connected(self, url: str) -> HTTPConnection:
        parts, service = urlsplit(url), self._service
        host = parts.hostname or ""
        connection: HTTPConnection
        if parts.scheme == "https":
            context = _context(service)
            connection = HTTPSConnection(
                host, parts.port, timeout=service.timeout_seconds, context=context
            )
        else:
            connection = HTTPConnection(host, parts.port, timeout=service.timeout_seconds)
        connection.connect()
        with self._lock:
            self._connection = connection
            # Who shut the socket down before it was there found nothing to shut.
            if self._is_stopped or self._late.is_set():
                raise TimeoutError
        # From here on the timer alone bounds the exchange: a long poll is silent for long.
        connection.sock.settimeout(None)
        return connection

    def _read(self, response: HTTPResponse) -> BundleAnswer:
        etag = (response.getheader("etag") or "").strip()
        etag = etag if len(etag) <= _MAX_ETAG and etag.isprintable() else ""
        # OPA: the service says by this type that it knows long polling.
        kind = (response.getheader("content-type") or "").partition(";")[0].strip().lower()
        is_long_poll = kind == MEDIA_TYPE
        if response.status == 304:
            return BundleAnswer(raw=None, etag=etag, is_long_poll=True)
        if response.status != 200:
            raise _failed(f"`{self._service.url}` answered with status {response.status}")
        return BundleAnswer(raw=self._body(response), etag=etag, is_long_poll=is_long_poll)

    def _body(self, response: HTTPResponse) -> bytes:
        most = self._service.max_bytes
        body = bytearray()
        while len(body) <= most and (step := response.read1(_STEP_BYTES)):
            body += step
        # A socket that we shut down ends like one that has said everything.
        if self._is_stopped or self._late.is_set():
            raise TimeoutError
        if len(body) > most:
            raise _failed(f"`{self._service.url}` is larger than {most} bytes", "see `maxBytes`")
        if response.length:
            raise _failed(f"`{self._service.url}` broke off its answer")
        return bytes(body)

    def _abort(self, late: threading.Event) -> None:
        """Shut the socket down: a read that waits on it returns."""
        late.set()
        with self._lock:
            channel = None if self._connection is None else self._connection.sock
        if channel is not None:
            with suppress(OSError):
                # WHY not its own method: a TLS socket would drop what its reader is using.
                socket.socket.shutdown(channel, socket.SHUT_RDWR)

    def _drop(self) -> None:
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _headers(etag: str, wait_seconds: int | None) -> dict[str, str]:
    # Deltas are not asked for: we keep whole bundles.
    wait = "" if wait_seconds is None else f";wait={wait_seconds}"
    headers = {
        "Prefer": f"modes=snapshot{wait}",
        "Accept-Encoding": "identity",
        "User-Agent": "meshwarden",
        "Connection": "close",
    }
    return {**headers, "If-None-Match": etag} if etag else headers


def _context(service: BundleService) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=service.ca_file)
    if service.certificate_file is not None:
        context.load_cert_chain(service.certificate_file, service.key_file)
    return context


def _read_token(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(_MAX_TOKEN_BYTES + 1).strip()
    token = raw.decode("ascii", "replace")
    if not token.isascii() or not token.isprintable() or not token or len(raw) > _MAX_TOKEN_BYTES:
        raise _failed(f"`{path}` holds no bearer token")
    return token


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()


def _why(exc: Exception) -> str:
    """Return the kind of a foreign error; its text may quote what it was given."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return type(exc).__name__


def _failed(why: str, help_: str = "") -> PolicyBundleError:
    return PolicyBundleError("bundle.fetch", why, help_)
