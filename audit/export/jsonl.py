"""Records as JSON lines: the documents as they stand, ASCII, one a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from audit.time_range import TimeRange
from audit.verify import VerifyReport


def export(
    records: Iterable[Mapping[str, Any]],
    out: TextIO,
    *,
    title: str,
    range: TimeRange,
    verification: VerifyReport | None,
) -> int:
    """Write the records and return how many. The other arguments have no place in this form."""
    del title, range, verification
    count = 0
    for record in records:
        out.write(json.dumps(record, separators=(",", ":")) + "\n")
        count += 1
    return count
