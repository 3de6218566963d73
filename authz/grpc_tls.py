"""The listener's TLS as grpcio's library wants it."""

from __future__ import annotations

import threading

import grpc

from authz.listener_tls import ListenerTls, ShownTls

# What gRPC calls the one URI of a client's certificate when that is a SPIFFE ID.
_SPIFFE_ID = "peer_spiffe_id"


def grpc_credentials(tls: ListenerTls) -> grpc.ServerCredentials:
    """Return what a secure port is opened with; it keeps asking for what is to be shown."""
    given = _Given(tls)
    return grpc.dynamic_ssl_server_credentials(
        _configuration(given.last), given.fetch, require_client_authentication=tls.asks_clients
    )


def admits(tls: ListenerTls, context: grpc.ServicerContext) -> bool:
    """Return whether the caller of a call may ask; its certificate was verified before."""
    if not tls.names_clients:
        return True
    found = context.auth_context().get(_SPIFFE_ID, ())
    spiffe_id = found[0].decode("utf-8", "replace") if len(found) == 1 else ""
    return tls.admits_id(spiffe_id, context.peer())


class _Given:
    """What gRPC was told last. Safe from many threads."""

    def __init__(self, tls: ListenerTls) -> None:
        self._tls = tls
        self._lock = threading.Lock()
        self.last = tls.shown()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what is to be shown from now on, None for what is shown already."""
        with self._lock:
            shown = self._tls.shown()
            if shown is self.last:
                return None
            self.last = shown
            return _configuration(shown)


def _configuration(shown: ShownTls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(shown.key, shown.chain)], root_certificates=shown.roots or None
    )
