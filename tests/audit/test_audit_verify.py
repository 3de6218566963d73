"""Any change of the files is found and located."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.chain import list_segments
from audit.errors import AuditReadError
from audit.verify import VerifyReport, verify_folder

_SHARED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def _verify_with(log: Path, lines: list[bytes], number: int = 1) -> VerifyReport:
    (log / f"audit-{number:08d}.jsonl").write_bytes(b"".join(lines))
    return verify_folder(log)


def test_untouched_log_is_intact(log: Path) -> None:
    """A log as written is intact, over several segments, with every decision counted."""
    report = verify_folder(log)
    assert report.problems == ()
    assert report.segments > 2
    assert (report.decisions, report.events, report.notes) == (40, 2, ())


@_SHARED
@given(data=st.data())
def test_any_changed_byte_is_found(log: Path, data: st.DataObject) -> None:
    """One changed byte anywhere, the last line and line ends included, names file and line."""
    _, path = data.draw(st.sampled_from(list_segments(log)))
    original = path.read_bytes()
    at = data.draw(st.integers(0, len(original) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != original[at]))
    path.write_bytes(original[:at] + bytes([byte]) + original[at + 1 :])
    try:
        report = verify_folder(log)
    finally:
        path.write_bytes(original)
    place = original[:at].count(b"\n") + 1
    assert not report.intact
    assert any((found.file, found.line) == (path.name, place) for found in report.problems)
    assert all(found.seq is not None for found in report.problems)


@_SHARED
@given(data=st.data())
def test_any_missing_line_before_the_end_is_found(log: Path, data: st.DataObject) -> None:
    """A line left out is found wherever it stood but at the very end."""
    segments = list_segments(log)
    index = data.draw(st.integers(0, len(segments) - 1))
    path = segments[index][1]
    lines = _lines(path)
    last = len(lines) - (2 if index == len(segments) - 1 else 1)
    at = data.draw(st.integers(0, last))
    path.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
    try:
        report = verify_folder(log)
    finally:
        path.write_bytes(b"".join(lines))
    assert not report.intact


def test_changed_decision_is_named(log: Path) -> None:
    """A turned verdict is located by file, line, seq and decision id."""
    lines = _lines(log / "audit-00000001.jsonl")
    lines[3] = lines[3].replace(b'"effect":"deny"', b'"effect":"allow"', 1)
    (found,) = _verify_with(log, lines).problems
    assert (found.file, found.line, found.seq) == ("audit-00000001.jsonl", 4, 4)
    assert found.decision_id == f"{1:032x}"
    assert "does not hold its own hash" in str(found)


def test_swapped_lines_are_named(log: Path) -> None:
    """Two lines that changed places are found, and what follows them is not blamed."""
    lines = _lines(log / "audit-00000001.jsonl")
    lines[3], lines[4] = lines[4], lines[3]
    problems = _verify_with(log, lines).problems
    assert [found.line for found in problems] == [4, 5]
    assert "missing before it: seq 4" in problems[0].what
    assert "out of order or repeated" in problems[1].what


def test_repeated_line_is_named(log: Path) -> None:
    """A line that stands twice is found once."""
    lines = _lines(log / "audit-00000001.jsonl")
    (found,) = _verify_with(log, [*lines[:4], lines[3], *lines[4:]]).problems
    assert found.line == 5
    assert "out of order or repeated: expected seq 5" in found.what


def test_cut_end_of_an_older_segment_is_named(log: Path) -> None:
    """Lines cut off a segment's end are counted where the next segment begins."""
    lines = _lines(log / "audit-00000001.jsonl")
    (found,) = _verify_with(log, lines[:-2]).problems
    assert (found.file, found.line) == ("audit-00000002.jsonl", 1)
    assert f"missing before it: seq {len(lines) - 1} to {len(lines)}" in found.what


def test_missing_segment_is_named(log: Path) -> None:
    """A segment taken out of the middle, or from the front, is named by number."""
    (log / "audit-00000002.jsonl").unlink()
    assert "missing before it: segment 2" in verify_folder(log).problems[0].what
    (log / "audit-00000001.jsonl").unlink()
    assert "missing before it: segment 1 to 2" in verify_folder(log).problems[0].what


def test_foreign_segment_is_named(log: Path, tmp_path: Path, open_writer, record) -> None:
    """A segment of another log, put under a fitting name, is recognised as foreign."""
    writer = open_writer(folder=tmp_path / "other", max_segment_bytes=8192)
    for number in range(40):
        writer.offer(record(number))
    writer.close()
    shutil.copy(tmp_path / "other" / "audit-00000002.jsonl", log / "audit-00000002.jsonl")
    problems = verify_folder(log).problems
    assert "the segment belongs to another log" in problems[0].what
    assert (problems[0].file, problems[0].line) == ("audit-00000002.jsonl", 1)


def test_renamed_and_empty_segments_are_named(log: Path) -> None:
    """A copy under another number, and an emptied file, are both breaks."""
    last = list_segments(log)[-1][0]
    shutil.copy(log / "audit-00000001.jsonl", log / f"audit-{last + 1:08d}.jsonl")
    (log / f"audit-{last + 2:08d}.jsonl").touch()
    text = "\n".join(map(str, verify_folder(log).problems))
    assert "the header is that of segment 1" in text
    assert "the segment is empty" in text


def test_single_segment_is_checked_within_itself(log: Path) -> None:
    """One file is verified on its own, and the report says what that leaves open."""
    report = verify_folder(log / "audit-00000002.jsonl")
    assert report.intact
    assert any("one segment only" in note for note in report.notes)


def test_cut_off_end_is_noted(log: Path) -> None:
    """A log that does not end with `stop` says so: a chain alone cannot prove its end."""
    path = list_segments(log)[-1][1]
    path.write_bytes(b"".join(_lines(path)[:-1]))
    report = verify_folder(log)
    assert report.intact
    assert any("does not end with `stop`" in note for note in report.notes)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_no_log_is_an_error(tmp_path: Path, name: str) -> None:
    """A path without a log is refused rather than called intact."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(AuditReadError):
        verify_folder(tmp_path / name)


@given(noise=st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_noise_is_never_intact_and_never_raises(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes
) -> None:
    """Any bytes in place of a segment give a report with problems."""
    folder = tmp_path_factory.mktemp("noise")
    (folder / "audit-00000001.jsonl").write_bytes(noise)
    assert not verify_folder(folder).intact
