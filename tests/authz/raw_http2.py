"""A gRPC client that sends what it is told, right or wrong."""

from __future__ import annotations

import socket

import h2.config
import h2.connection
import h2.events

CHECK = "/envoy.service.auth.v3.Authorization/Check"


class Client:
    """HTTP/2 as it is written here, right or wrong."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), 60)
        configuration = h2.config.H2Configuration(
            validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(configuration)
        self.h2.initiate_connection()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(
        self,
        stream: int,
        body: bytes | None,
        *,
        ends: bool = True,
        at_once: bool = True,
        **headers: str,
    ) -> None:
        """Begin a call."""
        named = {
            ":method": "POST",
            ":scheme": "http",
            ":path": CHECK,
            ":authority": "authorizer",
            "content-type": "application/grpc",
            "te": "trailers",
            **{key.replace("__", ":").replace("_", "-"): value for key, value in headers.items()},
        }
        self.h2.send_headers(stream, list(named.items()), end_stream=ends and body is None)
        if body is not None:
            size = self.h2.max_outbound_frame_size
            parts = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
            for part in parts[:-1]:
                self.h2.send_data(stream, part)
            self.h2.send_data(stream, parts[-1], end_stream=ends)
        if at_once:
            self.flush()

    def reset(self, stream: int) -> None:
        """Break a call off."""
        self.h2.reset_stream(stream)
        self.socket.sendall(self.h2.data_to_send())

    def answer(self, stream: int) -> tuple[str, bytes]:
        """Return the gRPC status (else the HTTP status, `reset` or `closed`) and the body."""
        found: dict[str, str] = {}
        body = b""
        while True:
            data = self.socket.recv(65536)
            if not data:
                return "closed", body
            for event in self.h2.receive_data(data):
                if getattr(event, "stream_id", None) != stream:
                    continue
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    found |= {_text(key): _text(value) for key, value in event.headers}
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    return found.get("grpc-status") or found[":status"], body
                elif isinstance(event, h2.events.StreamReset):
                    return "reset", body
            self.socket.sendall(self.h2.data_to_send())

    def flush(self) -> None:
        """Send what was only begun."""
        self.socket.sendall(self.h2.data_to_send())

    def statuses(self, count: int) -> list[str]:
        """Return the gRPC statuses of so many calls."""
        found: list[str] = []
        while len(found) < count:
            for event in self.h2.receive_data(self.socket.recv(65536)):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    told = {_text(key): _text(value) for key, value in event.headers}
                    found += [told["grpc-status"]] if "grpc-status" in told else []
                elif isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            self.flush()
        return found


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
