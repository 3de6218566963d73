"""The service behind the server-side Envoy: it answers with what reached it."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler

from examples.demo.loopback import LoopbackServer


class _Echo(BaseHTTPRequestHandler):
    """Answer every request with its method, path and headers as JSON."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes; the second must not wait for the first one's ACK.
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        """Write what was seen; the body is read so that the connection can go on."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        headers: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        seen = {"method": self.command, "path": self.path, "headers": headers}
        body = json.dumps(seen, indent=2).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: the demo's own output is the table."""


def echo_server() -> LoopbackServer:
    """Return the upstream, not yet answering."""
    return LoopbackServer(_Echo)
