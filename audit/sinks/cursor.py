"""How far a sink has the record: a small file beside the segments, replaced whole.

It names the last line that the sink acknowledged, by place and by hash: a place alone would
point into other lines after a power cut, or when another log took the folder.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from audit.chain import GENESIS_HASH
from audit.whole_file import replace_file


@dataclass(frozen=True, slots=True)
class Cursor:
    """The end of what was acknowledged: `offset` is in the bytes of segment `segment` as text.

    The beginning is segment 0. `seq` and `hash` are those of the line that ends there.
    """

    segment: int = 0
    offset: int = 0
    seq: int = 0
    hash: str = GENESIS_HASH
    log_id: str = ""


def cursor_path(folder: Path, name: str) -> Path:
    """Return the file of a sink's cursor."""
    return folder / f"sink-{name}.cursor"


def load_cursor(path: Path) -> Cursor:
    """Return the cursor in a file; without one, or with a damaged one, the beginning.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
        found = Cursor(**document)
    except FileNotFoundError:
        return Cursor()
    except (ValueError, TypeError, RecursionError):
        # Sent twice is better than not sent.
        return Cursor()
    numbers = (found.segment, found.offset, found.seq)
    whole = all(type(each) is int and each >= 0 for each in numbers)
    return found if whole and isinstance(found.hash, str) else Cursor()


def save_cursor(path: Path, cursor: Cursor) -> None:
    """Replace the cursor.

    Raises:
        OSError: it could not be written; the one before still stands.
    """
    replace_file(path, json.dumps(asdict(cursor)).encode() + b"\n")
