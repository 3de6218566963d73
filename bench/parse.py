"""Reading a CheckRequest: the upb classes of xds-protos against betterproto2's.

The message is what Envoy 1.40 sends for an ordinary mTLS request with a token;
both contestants get the same bytes and must read the same fields from them.
"""

from __future__ import annotations

import sys

from envoy.service.auth.v3 import external_auth_pb2
from envoy_data_plane.envoy.service.auth.v3 import CheckRequest

from bench.harness import Contestant, Goal, judge, measure, publish

_HEADERS = {
    ":authority": "orders.shop.example",
    ":method": "POST",
    ":path": "/orders/refund?amount=120",
    ":scheme": "https",
    "accept": "application/json",
    "authorization": "Bearer " + "x" * 820,
    "content-length": "0",
    "content-type": "application/json",
    "user-agent": "orders-web/4.2",
    "x-forwarded-client-cert": "By=spiffe://demo.example/ns/shop/sa/orders;Hash=" + "ab" * 32,
    "x-forwarded-for": "10.4.2.17",
    "x-forwarded-proto": "https",
    "x-request-id": "5e2ab2f8-44a5-4a3b-9d2a-0f6f2b9d6f11",
}


def message_bytes() -> bytes:
    """The request on the wire, about 1.5 kB."""
    message = external_auth_pb2.CheckRequest()
    attributes = message.attributes
    attributes.source.principal = "spiffe://demo.example/ns/shop/sa/web"
    attributes.source.address.socket_address.address = "10.4.2.17"
    attributes.source.address.socket_address.port_value = 41822
    attributes.destination.principal = "spiffe://demo.example/ns/shop/sa/orders"
    attributes.destination.address.socket_address.address = "10.4.2.9"
    attributes.destination.address.socket_address.port_value = 8443
    attributes.destination.labels.update({"app": "orders", "version": "v2"})
    attributes.request.time.FromSeconds(1_790_000_000)
    http = attributes.request.http
    http.id = "6512748219401182"
    http.method = "POST"
    http.path = _HEADERS[":path"]
    http.host = _HEADERS[":authority"]
    http.scheme = "https"
    http.protocol = "HTTP/2"
    http.headers.update(_HEADERS)
    return bytes(message.SerializeToString())


def read_upb(wire: bytes) -> tuple[str, str, str, dict[str, str]]:
    """Peer, method, path and headers, read with the upb classes."""
    attributes = external_auth_pb2.CheckRequest.FromString(wire).attributes
    http = attributes.request.http
    return attributes.source.principal, http.method, http.path, dict(http.headers)


def read_betterproto(wire: bytes) -> tuple[str, str, str, dict[str, str]]:
    """The same four, read with betterproto2's dataclasses."""
    attributes = CheckRequest.parse(wire).attributes
    assert attributes is not None
    assert attributes.source is not None
    assert attributes.request is not None
    assert attributes.request.http is not None
    http = attributes.request.http
    return attributes.source.principal, http.method, http.path, dict(http.headers)


def main() -> int:
    """Measure, print, write the result; 1 when the goal is missed."""
    wire = message_bytes()
    assert read_upb(wire) == read_betterproto(wire)
    measurements = measure(
        [
            Contestant("upb", lambda: read_upb(wire)),
            Contestant("betterproto2", lambda: read_betterproto(wire)),
        ]
    )
    goal = Goal(
        name="upb over betterproto2",
        numerator="betterproto2",
        denominator="upb",
        limit=20.0,
    )
    return publish(judge("parse", measurements, [goal]))


if __name__ == "__main__":
    sys.exit(main())
