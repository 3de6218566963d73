"""CSV (RFC 4180) that is safe to open in a spreadsheet.

A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a line end for a formula.
Strangers choose paths and host names, so such a cell gets a `'` before it, also when only white
space stands before the sign.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

from audit.export.columns import COLUMNS

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_rows(names: Iterable[str], rows: Iterable[Sequence[object]], out: TextIO) -> int:
    """Write a row of names and the rows, and return how many. `out` is opened with newline=""."""
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([safe_cell(name) for name in names])
    count = 0
    for row in rows:
        writer.writerow([safe_cell(cell) for cell in row])
        count += 1
    return count


def write_decisions(records: Iterable[Mapping[str, Any]], out: TextIO) -> int:
    """Write a row of names and a row a decision, and return how many."""
    picks = COLUMNS.values()
    return write_rows(COLUMNS, ([pick(record) for pick in picks] for record in records), out)


def safe_cell(value: object) -> str:
    """Return a cell's text that no spreadsheet takes for a formula. Numbers stay numbers."""
    if isinstance(value, bool | int | float):
        return str(value)
    text = "" if value is None else str(value).replace("\0", "")
    is_formula = text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return "'" + text if is_formula else text
