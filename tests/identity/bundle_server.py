"""A real HTTPS server on loopback that publishes trust bundles, or what it is told to."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from certificate_making import Made


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
