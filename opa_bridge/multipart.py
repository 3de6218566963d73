"""multipart/form-data by the rules of Go's mime/multipart, which opa-envoy-plugin reads it with.

Spec: RFC 2046 section 5.1, RFC 7578. Strict where an upstream could read it otherwise.
"""

from __future__ import annotations

import quopri
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

from opa_bridge.errors import InputError

# Go: "Limit for the number of headers"; forms have a handful of parts with two headers each.
_MOST_PARTS = 1000
# BUDGET: a field's name and type; reading parameters takes the square of their length.
_MOST_HEAD_BYTES = 8 * 1024
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n]*?)[ \t]*")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form: the field's name (empty when it has none), its type, its bytes."""

    name: str
    content_type: str
    content: bytes


def read_boundary(content_type: str) -> str | None:
    """Return the boundary that a content type names, or None.

    Raises:
        InputError: the content type is too long, or cannot be read.
    """
    if len(content_type) > _MOST_HEAD_BYTES:
        raise InputError(f"the content-type is longer than {_MOST_HEAD_BYTES} characters")
    found = _parameter("content-type", content_type, "boundary")
    return found or None


def read_parts(body: bytes, boundary: str) -> Iterator[Part]:
    """Yield the parts of a body.

    Raises:
        InputError: it is not delimited by the boundary, or a part has no readable head.
    """
    delimiter = re.escape(b"--" + boundary.encode("utf-8", "replace"))
    # RFC 2046: "delimiter := CRLF dash-boundary", then `--` at the end or a line break.
    # Go takes a bare line feed as well.
    line = re.compile(rb"(?:\A|\r?\n)" + delimiter + rb"(--)?[ \t]*(?:\r?\n|\Z)")
    begin: int | None = None
    for count, found in enumerate(line.finditer(body)):
        if count > _MOST_PARTS:
            raise InputError("the body has too many parts")
        if begin is not None:
            yield _part(body[begin : found.start()])
        if found[1]:
            return
        # The line break behind a delimiter is also the one before the next.
        begin = found.end()
    raise InputError("the body is not well-formed multipart/form-data")


def _part(text: bytes) -> Part:
    headers: dict[str, str] = {}
    begin = 0
    while True:
        end = text.find(b"\n", begin, _MOST_HEAD_BYTES)
        if end < 0 and len(text) > _MOST_HEAD_BYTES:
            raise InputError(f"a part of the body has a head of more than {_MOST_HEAD_BYTES} bytes")
        line = text[begin : end if end >= 0 else None].removesuffix(b"\r")
        if not line:
            break
        found = _HEADER.fullmatch(line)
        if found is None or end < 0:
            raise InputError("a part of the body has a head that cannot be read")
        headers.setdefault(found[1].lower().decode(), found[2].decode("utf-8", "replace"))
        begin = end + 1
    rest = text[end + 1 :] if end >= 0 else b""
    # Go decodes quoted-printable and nothing else.
    if headers.get("content-transfer-encoding", "").lower() == "quoted-printable":
        rest = quopri.decodestring(rest)
    disposition = headers.get("content-disposition", "")
    is_field = disposition.partition(";")[0].strip().lower() == "form-data"
    name = _parameter("content-disposition", disposition, "name") if is_field else ""
    return Part(name, headers.get("content-type", ""), rest)


def _parameter(header: str, value: str, name: str) -> str:
    message = Message()
    try:
        message[header] = value
        found = message.get_param(name, "", header)
    except (ValueError, IndexError) as exc:
        raise InputError(f"the {header} cannot be read") from exc
    return found[2] if isinstance(found, tuple) else str(found)
