"""Decisions as JSON: the documents as they stand, ASCII, one a line or all in one object."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TextIO


def write_lines(records: Iterable[Mapping[str, Any]], out: TextIO) -> int:
    """Write a line a decision, and return how many."""
    count = 0
    for record in records:
        out.write(json.dumps(record, separators=(",", ":")) + "\n")
        count += 1
    return count


def write_object(records: Iterable[Mapping[str, Any]], out: TextIO, *, range: str) -> int:
    """Write one object, `range` and `decisions`, and return how many decisions."""
    out.write(f'{{"range":{json.dumps(range)},"decisions":[')
    count = 0
    for record in records:
        out.write(("," if count else "") + "\n" + json.dumps(record, separators=(",", ":")))
        count += 1
    out.write("\n]}\n")
    return count
