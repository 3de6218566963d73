"""The request body as a value, by content type, as opa-envoy-plugin parses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from email import policy as email_policy
from email.parser import BytesParser
from typing import Any

from opa_bridge.errors import InputError
from opa_bridge.parsed_path import parse_query
from policies.request import Request

_PARTIAL = "x-envoy-auth-partial-body"


def parse_body(request: Request) -> tuple[Any, bool]:
    """Return `(parsed_body, truncated_body)`; None when there is nothing to parse.

    Raises:
        InputError: the body is not what its content type says.
    """
    if request.header(_PARTIAL) == "true":
        return None, True
    kind = request.header("content-type") or ""
    # The plugin looks for the type anywhere in the value, in this order, case-sensitively.
    parse: Callable[[bytes, str], Any]
    if "application/json" in kind:
        parse = _json
    elif "application/grpc" in kind:
        return None, False
    elif "application/x-www-form-urlencoded" in kind:
        parse = _form
    elif "multipart/form-data" in kind:
        parse = _multipart
    else:
        return None, False
    if not request.body:
        return None, False
    if _is_cut_short(request):
        return None, True
    return parse(request.body, kind), False


def _is_cut_short(request: Request) -> bool:
    length = request.header("content-length")
    if length is None:
        return False
    if not (length.isascii() and length.isdigit()):
        raise InputError("the content-length is not a number")
    return int(length[:20]) > len(request.body)


def _json(body: bytes, _kind: str) -> Any:
    try:
        # Go's decoder replaces bytes that are not UTF-8; NaN and Infinity are no JSON.
        return json.loads(body.decode("utf-8", "replace"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise InputError("the body is not JSON") from exc


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


def _form(body: bytes, _kind: str) -> Any:
    return parse_query("?" + body.decode("utf-8", "replace"))


def _multipart(body: bytes, kind: str) -> Any:
    head = f"content-type: {kind}\r\n\r\n".encode("utf-8", "replace")
    message = BytesParser(policy=email_policy.HTTP).parsebytes(head + body)
    if message.get_boundary() is None:
        return None
    if message.defects or not message.is_multipart():
        raise InputError("the body is not well-formed multipart/form-data")
    values: dict[str, list[Any]] = {}
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        if not isinstance(name, str) or not name:
            continue
        content = part.get_payload(decode=True)
        raw = content if isinstance(content, bytes) else b""
        is_json = part.get_content_type() == "application/json"
        value = _json(raw, kind) if is_json else raw.decode("utf-8", "replace")
        values.setdefault(name, []).append(value)
    return values
