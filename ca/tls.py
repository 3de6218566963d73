"""TLS contexts of this CA's own servers, made anew when what they are made of changes.

Spec: SPIFFE Federation §5.1 (the "intermediate" profile of Mozilla's server side TLS).
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from threading import Lock
from typing import Any, Final

import structlog

from ca.errors import ListenError

_log = structlog.get_logger(__name__)
_DER: Final = 2
# Mozilla's intermediate profile for TLS 1.2; TLS 1.3 brings its own.
_CIPHERS: Final = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


def server_context() -> ssl.SSLContext:
    """Return a server's context without a certificate: TLS 1.2 and up, forward secrecy only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    return context


def load_pem(context: ssl.SSLContext, chain_pem: bytes, key_pem: bytes) -> None:
    """Give `context` a certificate and key from memory; the key touches no disk.

    Raises:
        ListenError: they do not belong together, or TLS takes no such key.
    """
    # WHY: `ssl` reads certificates from files only; this one has no name and no disk.
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, chain_pem + key_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as exc:
        raise ListenError(f"the certificate cannot be served: {exc.reason}") from exc
    finally:
        os.close(descriptor)


def peer_chain(connection: Any) -> tuple[bytes, ...]:
    """Return the chain (DER, leaf first) that a TLS client has sent, empty without one.

    `connection` is an `ssl.SSLSocket` or `ssl.SSLObject` after its handshake.
    """
    leaf = connection.getpeercert(binary_form=True) if connection is not None else None
    if leaf is None:
        return ()
    if hasattr(connection, "get_unverified_chain"):
        return tuple(connection.get_unverified_chain())
    # WHY a private name: before Python 3.13 the method has no public one, and without the
    # intermediates a leaf of one that was renewed since leads nowhere.
    return tuple(
        each.public_bytes(_DER) for each in connection._sslobj.get_unverified_chain() or ()
    )


class FileContext:
    """The context of a certificate and key in files that somebody else renews."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Load both files.

        Raises:
            ListenError: they cannot be read, or do not belong together.
        """
        self._certificate = certificate
        self._key = key
        self._lock = Lock()
        self._fault = ""
        self._stamp = self._look()
        self._context = self._load()

    def __call__(self) -> ssl.SSLContext:
        """Return the context of the files as they are; the one before while they are not whole."""
        with self._lock:
            try:
                stamp = self._look()
                if stamp != self._stamp:
                    self._context, self._stamp = self._load(), stamp
                self._fault = ""
            except ListenError as exc:
                # Every connection looks; one line tells of a fault.
                if self._fault != str(exc):
                    self._fault = str(exc)
                    _log.error("certificate_not_reloaded", error=self._fault)
            return self._context

    def _look(self) -> tuple[tuple[int, ...], ...]:
        """Return what changes with the files; a copy may keep size and modification time."""
        try:
            found = [path.stat() for path in (self._certificate, self._key)]
        except OSError as exc:
            raise ListenError(f"`{exc.filename}` cannot be read: {exc.strerror}") from exc
        return tuple((each.st_ino, each.st_ctime_ns, each.st_size) for each in found)

    def _load(self) -> ssl.SSLContext:
        """Return a context of the files."""
        context = server_context()
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
        except (OSError, ValueError) as exc:
            why = getattr(exc, "reason", None) or getattr(exc, "strerror", None) or str(exc)
            raise ListenError(f"`{self._certificate}` cannot be served: {why}") from exc
        return context


def _no_password() -> str:
    """Refuse an encrypted key, which would ask at a terminal that is not there."""
    raise ValueError("the key is encrypted")
