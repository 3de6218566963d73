"""Answers as text: a line a decision for people, a table of counts, JSON lines, CSV.

Strangers choose paths, hosts and names: on a terminal their control signs are shown and do
nothing, in CSV no cell is a formula.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, TextIO

from audit.export.columns import (
    name_destination,
    name_peer,
    name_rule,
    name_subject,
    pick_at,
)
from audit.export.csv import write_decisions, write_rows
from audit.export.json import write_lines as write_json
from audit.export.visible import make_visible
from audit.query_engine import Group
from audit.query_tail import Damaged

Record = Mapping[str, Any]
_reason = pick_at("decision", "reason")
_detail = pick_at("decision", "detail")
_near_miss = pick_at("decision", "near_miss")


def line_of(record: Record) -> str:
    """Return one decision as one line: when, the answer, the request, who, by what, why."""
    who = name_peer(record) or "no peer"
    subject = name_subject(record)
    parts = [
        str(record.get("decided_at", "")),
        f"{pick_at('decision', 'effect')(record) or '?'!s:<5}",
        f"{pick_at('decision', 'http_status')(record)!s:<3}",
        f"{pick_at('request', 'method')(record)} "
        f"{pick_at('request', 'host')(record)}{pick_at('request', 'path')(record)}",
        f"from {who}" + (f" ({subject})" if subject else ""),
        f"to {name_destination(record) or '?'}",
        f"by {name_rule(record)}" if name_rule(record) else "",
        str(_reason(record) or ""),
        f"nearly: {_near_miss(record)}" if _near_miss(record) else str(_detail(record) or ""),
        str(record.get("decision_id", "")),
    ]
    return make_visible("  ".join(part for part in parts if part))


def damage_line(damaged: Damaged) -> str:
    """Return what is told of a damaged line."""
    return make_visible(f"DAMAGED  {damaged.file} at byte {damaged.offset}: {damaged.why}")


def write_lines(records: Iterable[Record], out: TextIO) -> int:
    """Write a line a decision for people, and return how many."""
    count = 0
    for record in records:
        out.write(line_of(record) + "\n")
        count += 1
    return count


RECORD_FORMATS: Final[Mapping[str, Callable[[Iterable[Record], TextIO], int]]] = MappingProxyType(
    {"table": write_lines, "json": write_json, "csv": write_decisions}
)


def write_groups(
    groups: Sequence[Group], by: Sequence[str], out: TextIO, *, format: str = "table"
) -> int:
    """Write counts in one of the formats of `RECORD_FORMATS`, and return how many rows."""
    names = [*by, "allowed", "denied", "first_at", "last_at"]
    rows = [[*group.value, *_counts(group)] for group in groups]
    if format == "json":
        out.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    elif format == "csv":
        write_rows(names, rows, out)
    else:
        out.writelines(_aligned(names, rows))
    return len(rows)


def _counts(group: Group) -> list[object]:
    return [group.allowed, group.denied, group.first_at, group.last_at]


def _aligned(names: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    shown = [[make_visible(cell) or "-" for cell in row] for row in [names, *rows]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip() + "\n"
