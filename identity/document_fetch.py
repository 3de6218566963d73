"""Fetch a small document from an issuer, guarded against where its name may lead.

Spec: reference 7.8; RFC 9110 §15.4 (redirects); RFC 9111 §5.2.2.1 (`max-age`).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpcore

from identity.address_guard import AddressRules
from identity.errors import KeySourceError, KeySourceUnreachableError
from identity.guarded_network import (
    CheckCertificate,
    Deadline,
    GuardedBackend,
    Resolve,
    resolve_host,
)

# BUDGET: the largest public key sets are some tens of KiB.
MAX_DOCUMENT_BYTES: Final = 1024 * 1024
# BUDGET: issuers redirect once at most, to a content network.
MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = range(200, 300)
_SCHEMES: Final = ("http", "https")
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=\"?([0-9]{1,9})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a URL answered with 2xx.

    `max_age_seconds` is how long the sender calls it fresh, None when it does not say;
    `content_type` is for messages only, for Istio does not look at it either.
    """

    body: bytes
    content_type: str = ""
    max_age_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFetcher:
    """Fetches documents under one set of address rules. Holds no connection.

    Proxies from the environment are not used. `tls` None means the system's roots;
    `check_certificate` judges each server's certificate before anything is asked of it.
    """

    addresses: AddressRules = AddressRules()
    resolve: Resolve = resolve_host
    tls: ssl.SSLContext | None = None
    check_certificate: CheckCertificate | None = None

    def fetch(self, url: str, *, timeout_seconds: float) -> Document:
        """Return what a GET of the URL answers with 2xx.

        The timeout is for the whole exchange, redirects included.

        Raises:
            KeySourceError: the document could not be had; the message says why.
        """
        return self._exchange(_Call(url), timeout_seconds)

    def post(
        self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_seconds: float
    ) -> Document:
        """Return what a POST answers with 2xx; a redirect is refused, for it would carry secrets.

        Raises:
            KeySourceError: there was no such answer; the message quotes nothing of the body.
        """
        return self._exchange(_Call(url, dict(headers), body), timeout_seconds)

    def _exchange(self, call: _Call, timeout_seconds: float) -> Document:
        """Make the call within the time, with every foreign error wrapped."""
        deadline = Deadline(timeout_seconds)
        backend = GuardedBackend(deadline, self.resolve, self.addresses, self.check_certificate)
        try:
            # WHY within: a client certificate or a root that cannot be read is an OSError too.
            context = self.tls if self.tls is not None else ssl.create_default_context()
            with httpcore.ConnectionPool(ssl_context=context, network_backend=backend) as pool:
                return _follow(pool, call, deadline)
        except httpcore.TimeoutException as exc:
            raise KeySourceUnreachableError(
                f"`{call.url}` did not answer within {timeout_seconds:g} s"
            ) from exc
        except (httpcore.NetworkError, OSError) as exc:
            raise KeySourceUnreachableError(
                f"`{call.url}` could not be reached: {_why(exc)}"
            ) from exc
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol, ValueError) as exc:
            raise KeySourceError(f"`{call.url}` could not be fetched: {_name(exc)}") from exc


def fetch_document(
    url: str,
    *,
    timeout_seconds: float,
    resolve: Resolve = resolve_host,
    tls: ssl.SSLContext | None = None,
    addresses: AddressRules | None = None,
) -> bytes:
    """Return the body that a GET of the URL answers with 2xx; as `DocumentFetcher.fetch`.

    Raises:
        KeySourceError: the document could not be had; the message says why.
    """
    rules = AddressRules() if addresses is None else addresses
    fetcher = DocumentFetcher(addresses=rules, resolve=resolve, tls=tls)
    return fetcher.fetch(url, timeout_seconds=timeout_seconds).body


@dataclass(frozen=True, slots=True)
class _Call:
    """One exchange to make: a GET, or a POST where there is a body."""

    url: str
    headers: Mapping[str, str] | None = None
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Redirect:
    """An answer that sends us elsewhere, to the target as the header named it."""

    target: str


def _name(exc: Exception) -> str:
    """Return the kind of a foreign error; its text may quote what it was given."""
    return type(exc).__name__


def _why(exc: Exception) -> str:
    """Return what the system or TLS says of a failed connection, else the kind of the error."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS failed: {(cause.reason or _name(cause)).replace('_', ' ').lower()}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return _name(exc)


def _follow(pool: httpcore.ConnectionPool, call: _Call, deadline: Deadline) -> Document:
    """Return the document at the end of at most `MAX_REDIRECTS` redirects."""
    current = call.url
    for _ in range(MAX_REDIRECTS + 1):
        check_url(current)
        answer = _ask(pool, current, call, deadline)
        if isinstance(answer, Document):
            return answer
        following = urljoin(current, answer.target)
        # WHY split: a scheme is the same in capitals (RFC 3986 §3.1).
        if urlsplit(current).scheme == "https" and urlsplit(following).scheme != "https":
            raise KeySourceError(f"`{call.url}` redirects from https to something else")
        current = following
    raise KeySourceError(f"`{call.url}` redirects more than {MAX_REDIRECTS} times")


def check_url(url: str) -> None:
    """Refuse a URL that is not http(s) with a host, or that carries credentials.

    Raises:
        KeySourceError: the URL is not one that anything is fetched from.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise KeySourceError("a URL holds printable ASCII characters only")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise KeySourceError("a URL has a host and a port that can be read") from None
    if parts.scheme not in _SCHEMES or not host:
        raise KeySourceError(f"`{parts.scheme}:` is not a scheme keys are fetched by")
    if parts.username is not None or parts.password is not None:
        raise KeySourceError("a URL with credentials is not fetched")


def _ask(
    pool: httpcore.ConnectionPool, url: str, call: _Call, deadline: Deadline
) -> Document | _Redirect:
    """Return what one exchange answers with, or where it redirects to."""
    sent = {"Host": urlsplit(url).netloc, "Accept": "application/json", **(call.headers or {})}
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), deadline.left())
    with pool.stream(
        "GET" if call.body is None else "POST",
        url,
        headers=list(sent.items()),
        content=call.body,
        extensions={"timeout": timeouts},
    ) as answer:
        headers = _read_headers(answer)
        if answer.status in _REDIRECTS and "location" in headers:
            if call.body is not None:
                raise KeySourceError(f"`{url}` redirects what was sent to it")
            return _Redirect(headers["location"])
        if answer.status not in _OK:
            raise KeySourceError(f"`{url}` answered with status {answer.status}")
        # No `Accept-Encoding` was sent: a body that is packed nevertheless may unpack to anything.
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise KeySourceError(f"`{url}` answered with a packed body, which was not asked for")
        return Document(
            body=_read_body(answer, url),
            content_type=headers.get("content-type", ""),
            max_age_seconds=_max_age(headers.get("cache-control", "")),
        )


def _read_headers(answer: httpcore.Response) -> dict[str, str]:
    """Return the headers by lower-case name, the first of each."""
    headers: dict[str, str] = {}
    for name, value in answer.headers:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return headers


def _read_body(answer: httpcore.Response, url: str) -> bytes:
    """Return the body, which is read no further than its limit."""
    body = bytearray()
    for chunk in answer.iter_stream():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise KeySourceError(f"`{url}` is longer than {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


def _max_age(cache_control: str) -> float | None:
    """Return the seconds that the answer may be kept (RFC 9111 §5.2.2.1), None unless said."""
    found = _MAX_AGE.search(cache_control)
    return None if found is None else float(found[1])
