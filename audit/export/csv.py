"""Records as CSV (RFC 4180), safe to open in a spreadsheet.

A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a line
end for a formula. Strangers choose paths and host names, so such a cell gets a
`'` before it, also when only white space stands before the sign.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TextIO

from audit.export.columns import COLUMNS
from audit.time_range import TimeRange
from audit.verify import VerifyReport

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def export(
    records: Iterable[Mapping[str, Any]],
    out: TextIO,
    *,
    title: str,
    range: TimeRange,
    verification: VerifyReport | None,
) -> int:
    """Write a row of names and a row a record; return how many records.

    `title`, `range` and `verification` have no place in this form.
    """
    del title, range, verification
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    count = 0
    for record in records:
        writer.writerow([_cell(pick, record) for pick in COLUMNS.values()])
        count += 1
    return count


def safe_cell(value: object) -> str:
    """Return a cell's text that no spreadsheet takes for a formula. Numbers stay numbers."""
    if isinstance(value, bool | int | float):
        return str(value)
    text = "" if value is None else str(value).replace("\0", "")
    is_formula = text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return "'" + text if is_formula else text


def _cell(pick: Callable[[Mapping[str, Any]], object], record: Mapping[str, Any]) -> str:
    return safe_cell(pick(record))
