"""A real HTTPS server on loopback that publishes trust bundles, or what it is told to."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from certificate_making import AUTHORITY, LEAF, NOW, Made, Recipe, make

from identity.address_guard import AddressRules
from identity.bundle_source import SpiffeEndpoint, WebEndpoint
from identity.document_fetch import DocumentFetcher
from identity.spiffe_id import SpiffeId, TrustDomain
from identity.trust_bundle import TrustBundle

EXAMPLE, OTHER = TrustDomain("example.org"), TrustDomain("other.org")
ENDPOINT_ID = SpiffeId.parse("spiffe://example.org/bundle-endpoint")
# OpenSSL verifies by the system's clock, so these authorities and leaves are valid for long.
LONG = {"begins": -3650, "ends": 36500}


@dataclass
class Published:
    """What a server answers with; change it at will. `asked` counts the requests."""

    body: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    asked: int = 0


@contextmanager
def serving(folder: Path, chain: list[Made], published: Published) -> Iterator[int]:
    """Serve with this certificate chain, and give the port."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chain.pem").write_bytes(b"".join(each.pem for each in chain))
    (folder / "key.pem").write_bytes(chain[0].key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")

    class Handler(BaseHTTPRequestHandler):
        """Answers every GET with what is published now."""

        def do_GET(self) -> None:
            """Answer."""
            published.asked += 1
            self.send_response(published.status)
            for name, value in published.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(published.body)))
            self.end_headers()
            self.wfile.write(published.body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        """Shakes hands in the thread of each connection, so that a refused one blocks nobody."""

        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            """Put TLS on the connection, and answer."""
            try:
                with context.wrap_socket(request, server_side=True) as stream:
                    super().finish_request(stream, client_address)
            except OSError:
                return  # the client refused us, which is what some tests want

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()


@cache
def authority(name: str) -> Made:
    """An authority of that name, made once."""
    return make(Recipe.of({"subject": name, **LONG}, AUTHORITY))


@cache
def endpoint_leaf(uri: str = str(ENDPOINT_ID), by: str = "root", **fields: Any) -> Made:
    """The certificate of an endpoint."""
    return make(Recipe.of({"uris": [uri], **LONG, **fields}, LEAF), authority(by))


@cache
def web_leaf() -> Made:
    """The certificate of a web server called bundles.example."""
    recipe = Recipe.of({"subject": "web", "dns": ["bundles.example"], "uris": [], **LONG}, LEAF)
    return make(recipe, authority("public"))


def bundle(*names: str, domain: TrustDomain = EXAMPLE, **fields: Any) -> TrustBundle:
    """A bundle with these authorities."""
    certificates = tuple(authority(name).certificate for name in names)
    return TrustBundle(trust_domain=domain, x509_authorities=certificates, **fields)


def fetcher(**fields: Any) -> DocumentFetcher:
    """A fetcher that may go to loopback, where every name leads."""
    return DocumentFetcher(
        addresses=AddressRules(allow_loopback=True),
        resolve=lambda host, port: ["127.0.0.1"],
        **fields,
    )


@cache
def public_tls() -> ssl.SSLContext:
    """A client that knows the one public authority of these tests."""
    return ssl.create_default_context(cadata=authority("public").pem.decode())


def web(port: int, **fields: Any) -> WebEndpoint:
    """The `https_web` endpoint at a port."""
    given = {
        "trust_domain": EXAMPLE,
        "url": f"https://bundles.example:{port}/bundle",
        "fetcher": fetcher(tls=public_tls()),
        "timeout_seconds": 5.0,
    }
    return WebEndpoint(**(given | fields))


def spiffe(port: int, **fields: Any) -> SpiffeEndpoint:
    """The `https_spiffe` endpoint at a port, with the root to start from."""
    given = {
        "trust_domain": EXAMPLE,
        "url": f"https://anything.example:{port}/bundle",
        "endpoint_id": ENDPOINT_ID,
        "fetcher": fetcher(),
        "timeout_seconds": 5.0,
        "given": bundle("root"),
        "now": lambda: NOW,
    }
    return SpiffeEndpoint(**(given | fields))


def names_in(found: TrustBundle | None) -> list[str]:
    """The authorities of a bundle by name."""
    assert found is not None
    return [each.subject.rfc4514_string()[3:] for each in found.x509_authorities]
