"""Request bodies as Rego sees them: JSON that any engine can hold, or a refusal."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from opa_bridge.errors import InputError
from opa_bridge.parsed_body import parse_body
from opa_bridge.parsed_path import parse_query
from policies.request import Request
from tests.fuzz.choices import Choices
from tests.fuzz.target import Target

_KINDS = (
    *("application/json", "application/x-www-form-urlencoded", "text/plain", "application/grpc"),
    *(
        "multipart/form-data; boundary=b",
        'multipart/form-data; boundary="b b"',
        "application/json;",
    ),
    *("multipart/form-data", "multipart/form-data; boundary=", ""),
)


def _run(data: bytes) -> None:
    choices = Choices(data)
    kind, is_raw = choices.pick(_KINDS), choices.is_yes()
    length = choices.pick(("", "0", "3", "99999999", "-1", "x", "٣"))
    body = choices.rest()
    headers = {"content-type": (kind,), **({"content-length": (length,)} if length else {})}
    request = Request(headers=headers, body=body, body_is_raw=is_raw)
    with suppress(InputError):
        parse_query("/?" + body.decode("utf-8", "replace"))
    try:
        parsed, is_truncated = parse_body(request, ("a", "b"))
    except InputError:
        return
    assert parsed is None or not is_truncated
    _must_be_json(parsed)


def _must_be_json(value: Any) -> None:
    """Raise unless the value is finite JSON with numbers of 64 bits at most."""
    text = json.dumps(value, allow_nan=False)
    assert len(text) < 10_000_000
    level = [value]
    while level:
        each = level.pop()
        if isinstance(each, dict):
            assert all(isinstance(name, str) for name in each)
            level.extend(each.values())
        elif isinstance(each, list):
            level.extend(each)
        elif isinstance(each, int):
            assert -(2**63) <= each < 2**63


def _seeds() -> list[bytes]:
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n'
    return [
        b'\x00\x00\x00{"a": [1, 2.5, null], "b": "\\u0000"}',
        b"\x01\x00\x00a=b&c=%20&a=d+e;f",
        b"\x04\x00\x00" + part,
        b"\x05\x00\x00" + part.replace(b"--b", b"--b b"),
        b"\x00\x00\x00" + b"[" * 120 + b"]" * 120,
        b"\x00\x00\x001e999",
    ]


TARGET = Target(
    run=_run,
    seeds=_seeds,
    words=("Content-Disposition: form-data; name=", "--b", "\\r\\n", '"filename"', "%", "NaN"),
)
