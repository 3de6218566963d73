"""The chain: how a line is tied to the one before it, and how a line is checked.

Theory of operation. A line is one JSON object in ASCII bytes:
    {"seq":N,"prev":"<hash of line N-1>", ... ,"hash":"<hash of this line>"}\\n
`hash` is the SHA-256 of this line's bytes before `,"hash":`. It covers `prev`, and
so every line before it; what follows those bytes is fixed by the hash itself, so
no byte of a file is left uncovered, the last line's included. Checks work on the
bytes as written: there is no canonical form to agree on.
The first line of a segment is its header (`kind: segment`); its `prev` is the
hash of the last line of the segment before. The first `prev` of a log is zeros.
What a chain cannot show is that its end was cut off: that takes a signed
checkpoint kept elsewhere.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

from audit.errors import DamagedLineError

GENESIS_HASH: Final = "0" * 64
MAX_LINE_BYTES: Final = 4 * 1024 * 1024  # BUDGET: a reader never holds more than this of one line
# WHY kept: `json.dumps` with options of its own makes an encoder for each call.
encode_json: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
"""Returns the JSON of a line, in ASCII; raises as `json.dumps` does."""
_TAIL: Final = b',"hash":"'
_TAIL_LENGTH: Final = len(_TAIL) + 64 + len(b'"}\n')
_SEGMENT = re.compile(r"audit-([0-9]{8})\.jsonl(?:\.gz)?", re.ASCII)
COMPRESSED: Final = ".gz"
UNREADABLE: Final = (gzip.BadGzipFile, EOFError, zlib.error)
"""What reading a compressed segment raises where its bytes were changed."""


class ChainState(NamedTuple):
    """The end of a chain: the last line's `seq` and `hash`."""

    seq: int = 0
    hash: str = GENESIS_HASH


@dataclass(frozen=True, slots=True)
class Line:
    """A line that holds its own hash."""

    seq: int
    prev: str
    hash: str
    document: dict[str, Any]

    @property
    def state(self) -> ChainState:
        """The end of the chain after this line."""
        return ChainState(self.seq, self.hash)


def link_line(state: ChainState, document: Mapping[str, Any]) -> tuple[bytes, ChainState]:
    """Return the line that puts `document` at the end of the chain, and the new end.

    Raises:
        ValueError, TypeError, RecursionError: `document` is not plain JSON.
    """
    return link_text(state, encode_json(document)[1:-1])


def link_text(state: ChainState, text: str) -> tuple[bytes, ChainState]:
    """Return the line that puts a document at the end of the chain, and the new end.

    `text` is the document as JSON in ASCII, without its braces.
    """
    seq = state.seq + 1
    comma = "," if text else ""
    covered = f'{{"seq":{seq},"prev":"{state.hash}"{comma}{text}'.encode("ascii")
    digest = hashlib.sha256(covered).hexdigest()
    return covered + _TAIL + digest.encode("ascii") + b'"}\n', ChainState(seq, digest)


def parse_line(raw: bytes) -> Line:
    """Return the line in `raw`, which includes its line end.

    Raises:
        DamagedLineError: the bytes are not a whole line that holds its own hash.
    """
    if not raw.endswith(b"\n"):
        raise DamagedLineError("the line is cut off: it has no line end")
    covered = raw[:-_TAIL_LENGTH]
    digest = hashlib.sha256(covered).hexdigest()
    if raw[-_TAIL_LENGTH:] != _TAIL + digest.encode("ascii") + b'"}\n':
        raise DamagedLineError("the line does not hold its own hash: its bytes were changed")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise DamagedLineError("the line is not JSON") from exc
    if not isinstance(document, dict):
        raise DamagedLineError("the line is not a JSON object")
    seq, prev = document.get("seq"), document.get("prev")
    if type(seq) is not int or not isinstance(prev, str):
        raise DamagedLineError("the line has no `seq` or no `prev`")
    return Line(seq, prev, digest, document)


def segment_name(number: int) -> str:
    """Return the file name of a segment; numbers count from 1."""
    return f"audit-{number:08d}.jsonl"


def segment_number(name: str) -> int | None:
    """Return the number in a segment's file name, or None for any other name."""
    found = _SEGMENT.fullmatch(name)
    return int(found[1]) if found else None


def list_segments(folder: Path) -> list[tuple[int, Path]]:
    """Return the folder's segments as (number, path), in order of number.

    Where one stands there both plain and compressed, the plain one counts: its compression
    was not finished.

    Raises:
        OSError: the folder cannot be read.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # the plain name comes last, and stays
        number = segment_number(path.name)
        if number is not None:
            found[number] = path
    return sorted(found.items())


def open_segment(path: Path) -> BinaryIO:
    """Open a segment, compressed or not, to read its lines as they were written.

    Raises:
        OSError: the file cannot be opened. Reading raises `UNREADABLE` too.
    """
    if path.name.endswith(COMPRESSED):
        return cast(BinaryIO, gzip.open(path, "rb"))
    try:
        return path.open("rb")
    except FileNotFoundError:
        # It may have been compressed since the folder was listed.
        return cast(BinaryIO, gzip.open(f"{path}{COMPRESSED}", "rb"))


def read_raw_lines(path: Path) -> Iterator[bytes]:
    """Yield a file's lines with their ends, in pieces of at most the longest line allowed.

    Where compressed bytes are damaged it ends with what could be read before.

    Raises:
        OSError: the file cannot be read.
    """
    with open_segment(path) as file:
        try:
            while raw := file.readline(MAX_LINE_BYTES):
                yield raw
        except UNREADABLE:
            # WHY no error: what is missing is found by what follows, as in a cut-off file.
            return


def read_last_line(path: Path) -> bytes:
    """Return a file's last line, empty where it has none.

    Raises:
        OSError: the file cannot be read.
    """
    return next(iter(deque(read_raw_lines(path), maxlen=1)), b"")
