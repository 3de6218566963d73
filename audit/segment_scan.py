"""Reading a segment at one go: is every line chained to the one before it, and to what end?

Theory of operation. What the chain and the tree need of a line are its bytes, not its JSON: a
line of ours begins with `seq`, `prev` and `kind`, in this order, and ends with its hash. A
segment whose lines all do, each after the one before it, is told by its two ends and by the
subtrees of its lines. Any other is left to the walk of `audit.verify`, which says what is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from audit.chain import parse_line, read_raw_lines
from audit.errors import DamagedLineError
from audit.merkle import leaf_hash, subtrees
from audit.reader import time_of
from audit.record import EventName, Kind

_TAIL_LENGTH: Final = 76  # `,"hash":"`, 64 digits, `"}` and the line's end
_DECISION: Final = f'{Kind.DECISION}"'.encode()
_EVENT: Final = f'{Kind.EVENT}"'.encode()
_REMOVED: Final = f'"{EventName.SEGMENTS_REMOVED}"'.encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainedSegment:
    """A segment without a fault of its own: how it begins and ends, and what it counts.

    `trees` are the subtrees of its lines in the log's Merkle tree, (height, root). That every
    line is JSON is not known by it. `removals` are what its events tell of segments that went.
    """

    number: int
    log_id: str
    first_seq: int
    prev: str
    last_seq: int
    last_hash: str
    last_event: str
    lines: int
    decisions: int
    events: int
    first_at: str
    last_at: str
    trees: tuple[tuple[int, bytes], ...]
    removals: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> str:
        """Return it as a text that `parse_chained` reads."""
        return json.dumps(asdict(self) | {"trees": [(at, root.hex()) for at, root in self.trees]})


@dataclass(slots=True)
class _Scan:
    """Where the reading stands."""

    seq: int
    hash: str
    leaves: list[bytes]
    decisions: int = 0
    events: int = 0
    last: bytes = b""
    removals: list[Mapping[str, Any]] = field(default_factory=list)


def parse_chained(text: str) -> ChainedSegment:
    """Return what `ChainedSegment.to_json` wrote.

    Raises:
        ValueError: the text is something else.
    """
    try:
        document = json.loads(text)
        trees = tuple((int(at), bytes.fromhex(root)) for at, root in document.pop("trees"))
        removals = tuple(map(dict, document.pop("removals")))
        return ChainedSegment(**document, trees=trees, removals=removals)
    except (TypeError, LookupError, AttributeError, RecursionError) as exc:
        raise ValueError("no chained segment") from exc


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scan_segment(path: Path) -> ChainedSegment | None:
    """Return what a segment is, or None where any line is not as it must be.

    Raises:
        OSError: it cannot be read.
    """
    lines = read_raw_lines(path)
    raw = next(lines, b"")
    try:
        header = parse_line(raw)
        if header.document.get("kind") != Kind.SEGMENT or header.seq < 1:
            return None
        scan = _Scan(header.seq, header.hash, [leaf_hash(raw[:-1])], last=raw)
        if not _follow(lines, scan):
            return None
        last = parse_line(scan.last).document
    except DamagedLineError:
        return None
    document = header.document
    return ChainedSegment(
        number=document["segment"] if type(document.get("segment")) is int else 0,
        log_id=str(document.get("log_id")),
        first_seq=header.seq,
        prev=header.prev,
        last_seq=scan.seq,
        last_hash=scan.hash,
        last_event=str(last.get("event", "")),
        lines=scan.seq - header.seq + 1,
        decisions=scan.decisions,
        events=scan.events,
        first_at=time_of(document),
        last_at=time_of(last),
        trees=tuple(subtrees(header.seq - 1, scan.leaves)),
        removals=tuple(scan.removals),
    )


def _follow(lines: Iterator[bytes], scan: _Scan) -> bool:
    """Read on to the end; whether each line follows the one before it."""
    sha256, add = hashlib.sha256, scan.leaves.append
    seq, digest, decisions, events, raw = scan.seq, scan.hash, 0, 0, scan.last
    for raw in lines:
        seq += 1
        head = b'{"seq":%d,"prev":"%b","kind":"' % (seq, digest.encode())
        digest = sha256(raw[:-_TAIL_LENGTH]).hexdigest()
        if raw[-_TAIL_LENGTH:] != b',"hash":"%b"}\n' % digest.encode() or not raw.startswith(head):
            return False
        begin = len(head)
        if raw.startswith(_DECISION, begin):
            decisions += 1
        elif raw.startswith(_EVENT, begin):
            events += 1
            if _REMOVED in raw:
                scan.removals += _removal(raw)
        else:
            return False
        add(sha256(b"\x00" + raw[:-1]).digest())
    scan.seq, scan.hash, scan.last = seq, digest, raw
    scan.decisions, scan.events = decisions, events
    return True


def _removal(raw: bytes) -> list[Mapping[str, Any]]:
    """Return what an event tells of segments that retention removed.

    Raises:
        DamagedLineError: the line is not JSON.
    """
    document = parse_line(raw).document
    details = document.get("details")
    if document.get("event") != EventName.SEGMENTS_REMOVED or not isinstance(details, dict):
        return []
    return [details]
