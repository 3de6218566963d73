"""The CA's own certificate for its TLS: an SVID of its trust domain, on record as any other.

Theory of operation. Clients of the signing endpoints know our roots, as Istio's agents do, and the
endpoint's DNS names. The certificate is renewed half-way, or when another authority signs, at the
first connection after that or by `keep_fresh`. A client may show a certificate of ours: TLS checks
it against the roots, and `ca.renewing` then checks everything else.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Final

import structlog
from cryptography import x509

from ca.clock import Clock
from ca.errors import CaError
from ca.renewal import renew_at
from ca.retry import Retry
from ca.svid import X509Svid, to_pem
from ca.tls import load_pem, server_context
from ca.troubles import Trouble

_log = structlog.get_logger(__name__)
_CHECK_SECONDS: Final = 5.0
_RETRY: Final = timedelta(seconds=_CHECK_SECONDS)
# WHY one each: a client that offers both, as curl does, takes what it is answered for spoken.
_HTTP_1: Final = "http/1.1"
_HTTP_2: Final = "h2"


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnIdentityParts:
    """What the CA's own certificate is made of; `issue` blocks and records.

    `chain` returns what the authority that signs now sends with a leaf.
    """

    issue: Callable[[], X509Svid]
    chain: Callable[[], tuple[x509.Certificate, ...]]
    roots: Callable[[], Sequence[x509.Certificate]]
    clock: Clock
    random: Callable[[], float]


class OwnIdentity:
    """Contexts of the CA's own certificate. Any thread may ask."""

    def __init__(self, parts: OwnIdentityParts) -> None:
        """Issue the first certificate.

        Raises:
            CaError: it could not be issued.
        """
        self._parts = parts
        self._lock = Lock()
        self._renewing = Retry(_RETRY)
        self._svid, self._due_at = self._issued()
        self._roots: tuple[x509.Certificate, ...] = ()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return a context of the certificate and the roots of this moment, for HTTP/1.1.

        A renewal that fails is logged, once for each cause, and tried again a little later; the
        certificate before serves as long as it holds.

        Raises:
            ListenError: TLS does not take the certificate.
        """
        with self._lock:
            is_of_another = self._svid.chain[1:] != self._parts.chain()
            now = self._parts.clock()
            if (is_of_another or now >= self._due_at) and self._renewing.is_due(now):
                try:
                    self._svid, self._due_at = self._issued()
                    self._context = None
                    self._renewing.note_success()
                except CaError as exc:
                    if self._renewing.note_failure(str(exc), now):
                        _log.error("own_renewal_failed", error=str(exc), code=exc.code)
            roots = tuple(self._parts.roots())
            if self._context is None or roots != self._roots:
                self._context, self._roots = self._new_context(_HTTP_1), roots
            return self._context

    def troubles(self) -> Iterator[Trouble]:
        """Yield what is wrong with the certificate."""
        if self._renewing.why:
            is_over = not self._svid.is_valid_at(self._parts.clock())
            yield Trouble(
                code="own_certificate",
                subject="signing endpoints",
                message=self._renewing.why,
                is_failing=is_over,
            )

    def new_context(self) -> ssl.SSLContext:
        """Return a context of the certificate at hand that nobody else has, for HTTP/2.

        Raises:
            ListenError: TLS does not take the certificate.
        """
        return self._new_context(_HTTP_2)

    def _new_context(self, protocol: str) -> ssl.SSLContext:
        context = server_context()
        context.set_alpn_protocols([protocol])
        self._fill(context)
        return context

    async def keep_fresh(self, context: ssl.SSLContext) -> None:
        """Keep a context up to date that a server holds on to; runs until it is cancelled.

        WHY in place: such a server takes its context once. What was a root stays one in it, for TLS
        alone: who shows a certificate of it is refused after the handshake.
        """
        served: ssl.SSLContext | None = None
        while True:
            with suppress(CaError):
                current = await asyncio.to_thread(self.context)
                if current is not served:
                    self._fill(context)
                    served = current
            await asyncio.sleep(_CHECK_SECONDS)

    def _fill(self, context: ssl.SSLContext) -> None:
        """Give a context the certificate, and the roots that a client's may lead to."""
        load_pem(context, self._svid.chain_pem(), self._svid.key_pem())
        context.load_verify_locations(cadata=to_pem(tuple(self._parts.roots())).decode())
        context.verify_mode = ssl.CERT_OPTIONAL

    def _issued(self) -> tuple[X509Svid, datetime]:
        """Return a new certificate, and when the next one is due."""
        svid = self._parts.issue()
        return svid, renew_at(self._parts.clock(), svid.expires_at, self._parts.random())
