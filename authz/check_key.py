"""What makes two CheckRequests the same question.

Theory of operation. A message is read, what is new in every request is taken out of it, and
what is left is digested. The path is taken out as well, for who knows what policies see of it
(`policies.path_view`). INVARIANT: all that is not named here stays in the key, fields that
nobody knows included; a field that is added to the protocol can only make keys differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import Final, NamedTuple

from envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from google.protobuf.message import DecodeError

from authz.check_request import header_text, received_seconds
from policies.path_view import PATH_HEADER

VOLATILE_HEADERS: Final = (
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "content-length",
    PATH_HEADER,
)
"""Headers that number, trace or measure requests, and the path. Names count, values need not."""
# BUDGET: a longer message is no everyday question, and what is kept of it has its size.
_LONGEST: Final = 8192


class CheckKey(NamedTuple):
    """A question, by its digest and what the call's metadata says, and what was left out of it.

    `path` counts, unless it is seen as another; it is empty where the question holds it.
    `received_at` is seconds since the epoch, `size` that of the body in bytes, `values` are names
    and texts of the headers that do not count, in an order that is the same for the same question.
    """

    question: tuple[bytes, tuple[str, ...]]
    path: str
    received_at: float
    stream_id: str
    size: int
    values: tuple[tuple[str, str], ...]


def key_of(
    message: bytes, forwarded: tuple[str, ...], volatile: Collection[str]
) -> CheckKey | None:
    """Return the key of a serialized CheckRequest about HTTP; None for others, and long ones.

    `volatile` are the headers whose values do not count, of `VOLATILE_HEADERS`; the path is taken
    out with its header, and there is no key where the two differ. `forwarded` is what the call's
    metadata says of the peer.
    """
    if len(message) > _LONGEST:
        return None
    try:
        check = CheckRequest.FromString(message)
    except DecodeError:
        return None
    attributes = check.attributes
    request = attributes.request
    if not request.HasField("http"):
        return None
    http = request.http
    values = _take_values(http, volatile)
    path = ""
    if PATH_HEADER in volatile:
        path, http.path = http.path, ""
        for name, text in values:
            if name == PATH_HEADER and text != path:
                return None
    received_at, stream_id, size = received_seconds(attributes), http.id, http.size
    request.ClearField("time")
    http.id, http.size = "", 0
    address = attributes.source.address
    # WHY asked: to reach for the port of a pipe would turn it into a socket.
    if address.HasField("socket_address"):
        address.socket_address.ClearField("port_value")
    digest = hashlib.sha256(check.SerializeToString(deterministic=True)).digest()
    return CheckKey((digest, forwarded), path, received_at, stream_id, size, values)


def _take_values(
    http: AttributeContext.HttpRequest, volatile: Collection[str]
) -> tuple[tuple[str, str], ...]:
    """Empty the headers that do not count, and return them."""
    if not http.HasField("header_map"):
        headers = http.headers
        found = [(name, headers[name]) for name in volatile if name in headers]
        for name, _ in found:
            headers[name] = ""
        return tuple(found)
    found = []
    for header in http.header_map.headers:
        if header.key in volatile:
            found.append((header.key, header_text(header)))
            header.raw_value, header.value = b"", ""
    return tuple(found)


def has_plain_names(message: bytes) -> bool:
    """Whether headers are named in lower case, as Envoy does, and volatile ones once each.

    WHY: several that are one header in the end could not be told apart by the key.
    """
    http = CheckRequest.FromString(message).attributes.request.http
    raw = [header.key for header in http.header_map.headers]
    volatile = [name for name in raw if name in VOLATILE_HEADERS]
    return len(set(volatile)) == len(volatile) and all(
        name == name.lower() for name in (*http.headers, *raw)
    )
