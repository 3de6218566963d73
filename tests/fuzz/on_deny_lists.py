"""Deny lists: a document is read as a whole, or refused as a whole; who is on it is denied."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from identity.deny_list import DenyListError, parse_deny_list
from tests.fuzz.choices import Choices
from tests.fuzz.target import Target

_AT = datetime(2026, 3, 1, tzinfo=UTC)
_WEB = "spiffe://cluster.local/ns/shop/sa/web"
_KINDS: tuple[Any, ...] = ("spiffe_id", "serial", "spki_sha256", "ip", None, [], {})
_TEXTS: tuple[Any, ...] = (_WEB, "a" * 40, "a" * 64, "A" * 40, "", 5, None, ["a"], "spiffe://a\n")
_ENDS: tuple[Any, ...] = (
    *(None, "2026-03-01T00:00:00+00:00", "2026-02-01T00:00:00Z", "2027-01-01", "x", 5, True, []),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-03-01T00:00:00"),
)
_REVISIONS = ("1", "1e999", "-1", "NaN", "null", '"5"', '"x"', "1.5", "[]", "9" * 5000)


def _run(data: bytes) -> None:
    choices = Choices(data)
    raw = choices.rest() if choices.is_yes() else _document(choices)
    try:
        found = parse_deny_list(raw)
    except DenyListError:
        return
    listed = [(each["kind"], each["value"], each["until"]) for each in json.loads(raw)["denied"]]
    assert found.until.keys() == {(kind, value) for kind, value, _ in listed}
    for kind, value, end in listed:
        if kind == "spiffe_id" and end is None:
            assert found.denial_of([value], None, _AT), "who is listed is let in"


def _document(choices: Choices) -> bytes:
    lines = [
        {"kind": choices.pick(_KINDS), "value": choices.pick(_TEXTS), "until": choices.pick(_ENDS)}
        for _ in range(choices.number(4))
    ]
    text = f'{{"version":1,"revision":{choices.pick(_REVISIONS)},"denied":{json.dumps(lines)}}}'
    return choices.edited(text.encode(), choices.number(2))


def _seeds() -> list[bytes]:
    return [b"\x01{}", b"\x01", *(bytes([0, 2, 0, 0, end, 0, 0, 0, 0]) for end in range(11))]


TARGET = Target(run=_run, seeds=_seeds, words=('"denied"', '"until"', '"kind"'), share=0.5)
