"""Envoy's CheckRequest bytes to a Request. After this room nobody reads the protobuf.

Spec: `envoy.service.auth.v3.AttributeContext`. Decoding is by the upb classes of
`xds-protos`, the fast ones; see docs/decisions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue, Metadata
from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError

from identity.peer_finding import PeerEvidence
from identity.xfcc import HEADER as XFCC
from policies.request import Request

_NOTHING_KNOWN = Request(is_http=False)


class MalformedRequestError(Exception):
    """The message cannot be read as a question; the caller denies."""


def decode_check_request(message: bytes, forwarded: tuple[str, ...] = ()) -> Request:
    """Return the request of a serialized CheckRequest; without HTTP attributes it is a connection.

    `forwarded` is what the call's metadata holds of the peer; who the peer is stays open.

    Raises:
        MalformedRequestError: not a CheckRequest, one that describes nothing, or one whose
            metadata cannot be read.
    """
    try:
        attributes = CheckRequest.FromString(message).attributes
    except DecodeError as exc:
        raise MalformedRequestError("the message is not a CheckRequest") from exc
    if attributes.request.HasField("http"):
        return _http_request(attributes, forwarded)
    # Envoy's network filter always names both ends; a message that names none asks nothing.
    if not (attributes.HasField("source") and attributes.HasField("destination")):
        raise MalformedRequestError(
            "the message has neither HTTP attributes nor both ends of a connection"
        )
    return _connection(attributes, forwarded)


def _http_request(attributes: AttributeContext, forwarded: tuple[str, ...]) -> Request:
    http = attributes.request.http
    headers, is_merged = _headers(http)
    principal = attributes.source.principal
    xfcc = ",".join(headers[XFCC]) if XFCC in headers else None
    return _connection(attributes, forwarded, xfcc).altered(
        is_http=True,
        method=http.method,
        path=http.path,
        host=http.host,
        scheme=http.scheme,
        protocol=http.protocol,
        headers=headers,
        headers_merged=is_merged,
        # Envoy lower-cases the name it matches on, but may send the original case.
        sni=attributes.tls_session.sni.lower(),
        # A client certificate is a sure sign of TLS, whose session Envoy then kept to itself.
        sni_unknown=bool(principal) and not attributes.HasField("tls_session"),
        stream_id=http.id,
        size=http.size,
        body=http.raw_body or http.body.encode(),
        body_is_raw=bool(http.raw_body),
    )


def _connection(
    attributes: AttributeContext, forwarded: tuple[str, ...], xfcc: str | None = None
) -> Request:
    """Return what every CheckRequest tells."""
    source, destination = attributes.source, attributes.destination
    source_ip, source_port = _address(source)
    destination_ip, destination_port = _address(destination)
    # The network filter writes the requested server name into `destination.service`.
    sni = attributes.tls_session.sni or destination.service
    return _NOTHING_KNOWN.altered(
        source_ip=source_ip,
        source_port=source_port,
        destination_ip=destination_ip,
        destination_port=destination_port,
        destination_principal=destination.principal,
        sni=sni.lower(),
        received_at=received_seconds(attributes),
        context_extensions=dict(attributes.context_extensions),
        filter_metadata=_filter_metadata(attributes.metadata_context),
        route_metadata=_filter_metadata(attributes.route_metadata_context),
        destination_labels=dict(destination.labels),
        peer_evidence=PeerEvidence(
            principal=source.principal,
            certificate=source.certificate,
            source_ip=source_ip,
            xfcc=xfcc,
            forwarded=forwarded,
        ),
    )


def _headers(http: AttributeContext.HttpRequest) -> tuple[dict[str, tuple[str, ...]], bool]:
    """Return lower-case names with their values, and whether repeated ones came joined."""
    if not http.HasField("header_map"):
        return {name.lower(): (value,) for name, value in http.headers.items()}, True
    found: dict[str, list[str]] = {}
    for header in http.header_map.headers:
        found.setdefault(header.key.lower(), []).append(header_text(header))
    return {name: tuple(values) for name, values in found.items()}, False


def header_text(header: HeaderValue) -> str:
    """Return the value of a raw header."""
    # An empty value has no `raw_value`; bytes that are not UTF-8 stay distinguishable.
    return str(header.raw_value.decode("utf-8", "surrogateescape") or header.value)


def _address(peer: AttributeContext.Peer) -> tuple[str, int]:
    """Return IP text and port; a Unix socket has neither."""
    if not peer.address.HasField("socket_address"):
        return "", 0
    socket_address = peer.address.socket_address
    return socket_address.address, socket_address.port_value


def received_seconds(attributes: AttributeContext) -> float:
    """Return when Envoy had the request, in seconds since the epoch; 0 where it does not say."""
    time = attributes.request.time
    return float(time.seconds + time.nanos / 1e9)


def _filter_metadata(metadata: Metadata) -> Mapping[str, Any]:
    sections = metadata.filter_metadata
    if not sections:
        return {}
    try:
        return {name: MessageToDict(section) for name, section in sections.items()}
    except ValueError as exc:
        raise MalformedRequestError("the metadata holds a number that is not finite") from exc
