"""Fetching over TLS: the certificate is verified for the name, whatever address it stands at."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from loopback_issuer import ON_LOOPBACK, PATIENCE

from identity.document_fetch import DocumentFetcher
from identity.errors import KeySourceError

NAME = "issuer.example"


def _certificate(folder: Path) -> Path:
    """Write a certificate that signs itself, with its key, and return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the host that was asked for, or sends on to plain HTTP."""

    def do_GET(self) -> None:
        """Answer one request."""
        body = self.headers["host"].encode()
        self.send_response(302 if self.path == "/down" else 200)
        self.send_header("location", "http://issuer.example/keys")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


class _QuietServer(http.server.ThreadingHTTPServer):
    """A server that does not print the handshakes its clients broke off."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of `issuer.example`."""
    return _certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def port(pem: Path) -> Iterator[int]:
    """The port of a TLS server with that certificate."""
    server = _QuietServer(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def _fetcher(pem: Path | None) -> DocumentFetcher:
    """Return a fetcher that trusts the certificate, or the system's roots, and finds every name."""
    context = ssl.create_default_context(cafile=None if pem is None else str(pem))
    return DocumentFetcher(
        addresses=ON_LOOPBACK, tls=context, resolve=lambda _host, _port: ["127.0.0.1"]
    )


def test_the_name_is_verified(pem: Path, port: int) -> None:
    """The connection goes to the checked address, and TLS and `Host` speak of the name."""
    found = _fetcher(pem).fetch(f"https://{NAME}:{port}/keys", timeout_seconds=PATIENCE)
    assert found.body == f"{NAME}:{port}".encode()


@pytest.mark.parametrize("host", ["other.example", "127.0.0.1"])
def test_another_name_is_refused(pem: Path, port: int, host: str) -> None:
    """A server with a certificate of another name is not believed."""
    with pytest.raises(KeySourceError):
        _fetcher(pem).fetch(f"https://{host}:{port}/keys", timeout_seconds=PATIENCE)


def test_an_unknown_root_is_refused(port: int) -> None:
    """A certificate that no trusted root signed is not believed."""
    with pytest.raises(KeySourceError):
        _fetcher(None).fetch(f"https://{NAME}:{port}/keys", timeout_seconds=PATIENCE)


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "hTTps"])
def test_no_way_down(pem: Path, port: int, scheme: str) -> None:
    """A redirect from https to http is not followed, however the scheme is spelled."""
    with pytest.raises(KeySourceError, match="https to something else"):
        _fetcher(pem).fetch(f"{scheme}://{NAME}:{port}/down", timeout_seconds=PATIENCE)
