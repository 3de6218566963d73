"""The request body as a value, by content type, as opa-envoy-plugin parses it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from opa_bridge.errors import InputError
from opa_bridge.grpc_bodies import GrpcBodies
from opa_bridge.multipart import read_boundary, read_parts
from opa_bridge.parsed_path import parse_query
from policies.request import Request

_PARTIAL = "x-envoy-auth-partial-body"
# BUDGET: nesting of a body; more is no document but an attack on whoever reads it.
_MAX_DEPTH: Final = 100
_INT64: Final = range(-(2**63), 2**63)


def parse_body(
    request: Request, parsed_path: Sequence[str] = (), grpc_bodies: GrpcBodies | None = None
) -> tuple[Any, bool]:
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
        # WHY only raw bytes: in a body sent as text, bytes that are not UTF-8 are replaced.
        if grpc_bodies is None or not (request.body and request.body_is_raw):
            return None, False
        return grpc_bodies.parse(request.body, parsed_path)
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
        found = json.loads(
            body.decode("utf-8", "replace"),
            parse_constant=_refuse_constant,
            parse_int=_int64,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as exc:
        raise InputError("the body is not JSON") from exc
    # Few brackets cannot nest deep, and spare the walk.
    if body.count(b"[") + body.count(b"{") > _MAX_DEPTH and not _fits(found, _MAX_DEPTH):
        raise InputError(f"the body is nested deeper than {_MAX_DEPTH}")
    return found


def _int64(text: str) -> int:
    # WHY here: no engine may see another number than was sent, and a body that stops an
    # engine would be its client's choice.
    if len(text) > 20 or int(text) not in _INT64:  # digits of 64 bits and sign
        raise InputError("the body holds an integer of more than 64 bits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError("the body holds a number that is too large")
    return value


def _fits(value: Any, depth: int) -> bool:
    """Return whether lists and objects are nested no deeper, without recursion."""
    level = [value]
    for _ in range(depth + 1):
        level = [each for each in level if isinstance(each, (dict, list))]
        if not level:
            return True
        level = [
            inner for each in level for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return False


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


def _form(body: bytes, _kind: str) -> Any:
    return parse_query("?" + body.decode("utf-8", "replace"))


def _multipart(body: bytes, kind: str) -> Any:
    boundary = read_boundary(kind)
    if boundary is None:
        return None
    values: dict[str, list[Any]] = {}
    for part in read_parts(body, boundary):
        if not part.name:
            continue
        is_json = "application/json" in part.content_type
        value = _json(part.content, "") if is_json else part.content.decode("utf-8", "replace")
        values.setdefault(part.name, []).append(value)
    return values
