"""TLS of the gRPC listener: a certificate from files that others replace, and who may ask.

Theory of operation. gRPC asks for the certificate with each new connection. The files
are looked at then, and read again when they look different; what was read counts once
certificate, key and roots are whole and belong together. Until then the last good ones
are shown, and the fault is told.

Spec: RFC 8446; SPIFFE X.509-SVID section 5 (validation is by chain, never by host name).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from authz.errors import ListenError
from authz.listen_tls_settings import ListenTlsSettings

_log = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]
# BUDGET: an Envoy that may not ask does so with each of its requests.
_TOLD_AGAIN = timedelta(minutes=1)
_TOLD_MOST = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownTls:
    """What is shown to clients, PEM, and the state of the files that it was read from.

    Without `roots` (empty), clients are not asked for a certificate.
    """

    chain: bytes
    key: bytes = field(repr=False)
    roots: bytes
    not_after: datetime
    stamp: _Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerTlsStatus:
    """How the certificate stands; `fault` is why newer files are not shown, empty: they are."""

    not_after: datetime
    fault: str = ""


class ListenerTls:
    """The listener's certificate, kept up with its files. Safe from many threads."""

    def __init__(
        self,
        settings: ListenTlsSettings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Read the files.

        Raises:
            ListenError: they cannot be read, do not belong together, or have expired.
        """
        self._settings = settings
        self._clock = clock
        self._lock = threading.Lock()
        self._fault = ""
        self._told: dict[str, datetime] = {}
        self._shown = self._read()

    @property
    def asks_clients(self) -> bool:
        """Whether a client has to show a certificate."""
        return self._settings.client_ca_file is not None

    def status(self) -> ListenerTlsStatus:
        """Return how the certificate stands, its files looked at now."""
        with self._lock:
            self._refresh()
            return ListenerTlsStatus(not_after=self._shown.not_after, fault=self._fault)

    @property
    def has_expired(self) -> bool:
        """Whether no client can believe the certificate any longer."""
        return self._clock() > self.status().not_after

    def shown(self) -> ShownTls:
        """Return what clients are to be shown, the files looked at now; the same while it is."""
        with self._lock:
            self._refresh()
            return self._shown

    @property
    def names_clients(self) -> bool:
        """Whether not everybody may ask whom the roots vouch for."""
        return bool(self._settings.client_ids)

    def admits_id(self, spiffe_id: str, calls_from: str) -> bool:
        """Return whether a client of this verified SPIFFE ID (empty: it has none) may ask."""
        if self._settings.may_ask(spiffe_id):
            return True
        if self._is_news(spiffe_id):
            _log.warning("client_refused", client=spiffe_id or "no SPIFFE ID", from_=calls_from)
        return False

    def _is_news(self, spiffe_id: str) -> bool:
        """Whether nobody was told of this client for a while."""
        now = self._clock()
        with self._lock:
            last = self._told.get(spiffe_id)
            if last is not None and timedelta(0) <= now - last < _TOLD_AGAIN:
                return False
            if len(self._told) >= _TOLD_MOST:
                self._told.clear()
            self._told[spiffe_id] = now
            return True

    def _refresh(self) -> None:
        """Show what the files hold, if it is news and good."""
        try:
            stamp = self._look()
            # WHY what was refused is read again: its owner, or the clock, may have been the fault.
            if stamp != self._shown.stamp:
                self._shown = self._read()
                _log.info("certificate_reloaded", not_after=self._shown.not_after.isoformat())
            self._fault = ""
        except ListenError as exc:
            if self._fault != str(exc):
                _log.error("certificate_not_reloaded", error=str(exc))
            self._fault = str(exc)

    def _files(self) -> tuple[Path, ...]:
        settings = self._settings
        roots = () if settings.client_ca_file is None else (settings.client_ca_file,)
        return (settings.certificate_file, settings.key_file, *roots)

    def _look(self) -> _Stamp:
        """Return what changes with the files; a copy may keep size and modification time."""
        try:
            found = [path.stat() for path in self._files()]
        except OSError as exc:
            raise ListenError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc
        return tuple((each.st_ino, each.st_ctime_ns, each.st_size) for each in found)

    def _read(self) -> ShownTls:
        """Return what the files hold, once it belongs together."""
        stamp = self._look()
        try:
            chain, key, *roots = (path.read_bytes() for path in self._files())
        except OSError as exc:
            raise ListenError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc
        not_after = self._check_pair(chain, key)
        for raw in roots:
            self._certificates(raw, self._files()[-1])
        return ShownTls(
            chain=chain,
            key=key,
            roots=roots[0] if roots else b"",
            not_after=not_after,
            stamp=stamp,
        )

    def _check_pair(self, chain: bytes, key: bytes) -> datetime:
        """Return when the certificate ends; refuse it without its key, or after its end."""
        # WHY here: gRPC would take anything, log a line, and then fail each handshake.
        leaf = self._certificates(chain, self._settings.certificate_file)[0]
        try:
            private = serialization.load_pem_private_key(key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise ListenError(
                f"`{self._settings.key_file}` is not a private key in PEM without a password"
            ) from exc
        if private.public_key() != leaf.public_key():
            raise ListenError(
                f"`{self._settings.key_file}` is not the key of `{self._settings.certificate_file}`"
            )
        not_after = leaf.not_valid_after_utc
        if self._clock() > not_after:
            raise ListenError(
                f"`{self._settings.certificate_file}` ended at {not_after.isoformat()}"
            )
        return not_after

    def _certificates(self, raw: bytes, path: Path) -> list[x509.Certificate]:
        try:
            found = x509.load_pem_x509_certificates(raw)
            for each in found:
                each.public_key()
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
            raise ListenError(f"`{path}` does not hold certificates in PEM") from exc
        return found
