"""Watching the record: newest decisions, and each one as it is written."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit.errors import AuditReadError
from audit.query import Query
from audit.query_tail import Damaged, follow
from audit.query_text import RECORD_FORMATS, line_of, write_groups
from audit.reader import read_records
from audit.record import AuditRecord
from audit.writer import AuditWriter


def _ids(found: object) -> list[str]:
    assert isinstance(found, Iterator)
    return [
        f"damaged at {each.offset}" if isinstance(each, Damaged) else each["decision_id"]
        for each in found
    ]


def _newest(log: Path, count: int, query: Query | None = None) -> list[str]:
    return _ids(follow(log, query or Query(), newest=count, wait=lambda: False))


def test_newest_decisions_are_told_oldest_first(log: Path) -> None:
    """Without following, the last decisions are told and that is all."""
    last = [document["decision_id"] for document in read_records(log)][-3:]
    assert _newest(log, 3) == last
    assert _newest(log, 0) == []
    assert _newest(log, 3, Query(wanted={"decision_id": (last[0],)})) == last[:1]


def test_decisions_are_told_as_they_are_written(
    tmp_path: Path,
    record: Callable[..., AuditRecord],
    open_writer: Callable[..., AuditWriter],
) -> None:
    """Following goes on over the ends of segments, and leaves no decision out."""
    writer = open_writer(max_segment_bytes=4096)
    writer.offer(record(0))
    writer.close()
    rounds = iter(range(1, 31, 10))

    def wait() -> bool:
        first = next(rounds, None)
        if first is None:
            return False
        again = open_writer(max_segment_bytes=4096)
        for number in range(first, first + 10):
            again.offer(record(number))
        again.close()
        return True

    found = _ids(follow(tmp_path / "log", Query(), newest=1, wait=wait))
    assert found == [f"{number:032x}" for number in range(31)]
    assert len(list((tmp_path / "log").glob("audit-*.jsonl"))) > 5


def test_a_line_is_told_when_it_is_whole(log: Path) -> None:
    """Half a line is waited for; one whose bytes were changed is told as damaged."""
    path = sorted(log.glob("audit-*.jsonl"))[-1]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    decisions = [place for place, line in enumerate(lines) if b'"kind":"decision"' in line]
    place = decisions[-1]
    before = b"".join(lines[:place])
    damaged = lines[place].replace(b"alice", b"mally")
    pieces = iter([lines[place][50:], damaged])
    path.write_bytes(before + lines[place][:50])

    def wait() -> bool:
        piece = next(pieces, None)
        with path.open("ab") as file:
            file.write(piece or b"")
        return piece is not None

    found = _ids(follow(log, Query(), newest=0, wait=wait))
    assert len(found) == 2
    assert found[1] == f"damaged at {len(before) + len(lines[place])}"


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    """A folder that holds no segment, and one that is none, are errors."""
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(AuditReadError):
            _newest(folder, 1)


def test_hostile_text_does_nothing_on_a_terminal() -> None:
    """Control and direction signs in a record are shown as text."""
    evil = "\x1b[31m\u202e\n"
    shown = line_of({"request": {"path": evil, "host": evil}, "peer": {"principal": evil}})
    assert shown.isprintable()
    out = io.StringIO()
    RECORD_FORMATS["table"]([{"decision": evil}, {}], out)
    assert len(out.getvalue().splitlines()) == 2
    write_groups([], ["peer"], out)
