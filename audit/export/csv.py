"""CSV (RFC 4180) that is safe to open in a spreadsheet.

A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a line end for a formula.
Strangers choose paths and host names, so such a cell gets a `'` before it, also when only white
space stands before the sign. Where lists are written with semicolons, a spreadsheet splits lines at
those, in the middle of a cell: what follows one is held to the same. A surrogate, which stands for
a byte that was no text, is shown by its number, for it has no place in a file.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TextIO

from audit.export.columns import COLUMNS

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_SPLIT: Final = re.compile(rf"(;)(?=\s*[{re.escape(''.join(_FORMULA))}])")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


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
    if not text.isascii():
        text = _SURROGATE.sub(lambda found: f"\\u{{{ord(found[0]):x}}}", text)
    text = _SPLIT.sub(r"\1'", text) if ";" in text else text
    is_formula = text.startswith(_FORMULA) or text.lstrip().startswith(_FORMULA)
    return "'" + text if is_formula else text
