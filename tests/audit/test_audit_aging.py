"""What grew too old goes, by a clock that is believed."""

from __future__ import annotations

from pathlib import Path

from kept_logs import fill, segments

from audit.chain import list_segments
from audit.document import format_time
from audit.reader import read_records
from audit.verify import verify_folder
from tests.waiting import until

_DAY = 86_400


def _closed(open_log, record) -> Path:
    log = open_log()
    fill(log, record, range(60))
    log.close()
    return log.writer._segments.folder


def test_oldest_go_by_age(tmp_path, open_log, record, clock, verifier, monkeypatch) -> None:
    """Segments that were closed longer ago than the age go when the time is believed."""
    folder = _closed(open_log, record)
    newest = list_segments(folder)[-1][0]
    clock[0] += 8 * _DAY
    log = open_log(retention={"max_age_days": 7})
    fill(log, record, range(60, 70))
    until(lambda: log.keeper._seen == log.writer.committed[0])
    assert log.keeper.removed == 0
    monkeypatch.setattr("audit.aging_clock._DOUBTED_SECONDS", 0.0)
    log.keeper._wake.set()
    until(lambda: log.keeper.removed >= newest - 1)
    log.close()
    assert segments(folder)[0] == f"audit-{newest:08d}.jsonl"
    assert verify_folder(folder, verifier=verifier).problems == ()
    again = open_log(retention={"max_age_days": 7})
    fill(again, record, range(70, 75))
    again.close()
    assert verify_folder(folder, verifier=verifier).problems == ()


def test_a_clock_that_is_ahead_at_a_start_ages_nothing(
    tmp_path, open_log, record, clock, verifier
) -> None:
    """A machine that starts ten years ahead, until its clock is set, loses nothing by that."""
    folder = _closed(open_log, record)
    held = segments(folder)
    clock[0] += 3650 * _DAY
    log = open_log(retention={"max_age_days": 7})
    fill(log, record, range(60, 80))
    until(lambda: log.keeper._seen == log.writer.committed[0])
    clock[0] -= 3650 * _DAY
    fill(log, record, range(80, 100))
    until(lambda: log.keeper._seen == log.writer.committed[0])
    log.close()
    assert log.keeper.removed == 0
    assert segments(folder)[: len(held)] == held
    assert verify_folder(folder, verifier=verifier).problems == ()


def test_what_aged_while_nobody_wrote_for_a_day_goes_at_once(
    tmp_path, open_log, record, clock
) -> None:
    """A day off is nothing unusual: what is too old by then goes at the start."""
    folder = _closed(open_log, record)
    clock[0] += 0.9 * _DAY
    log = open_log(retention={"max_age_days": 0.5})
    until(lambda: log.keeper.removed > 0)
    log.close()
    assert segments(folder)[0] != "audit-00000001.jsonl"


def test_a_clock_that_is_set_forward_ages_nothing(
    tmp_path, open_log, record, clock, verifier
) -> None:
    """A jump of the clock removes nothing while the process runs: the next one believes it."""
    log = open_log(retention={"max_age_days": 7})
    fill(log, record, range(40))
    clock[0] += 400 * _DAY
    fill(log, record, range(40, 60))
    until(lambda: log.keeper._seen == log.writer.committed[0])
    log.close()
    folder = tmp_path / "log"
    assert (log.keeper.removed, segments(folder)[0]) == (0, "audit-00000001.jsonl")
    again = open_log(retention={"max_age_days": 7})
    until(lambda: again.keeper.removed > 0)
    again.close()
    assert verify_folder(folder, verifier=verifier).problems == ()


def test_a_torn_end_and_a_clock_that_is_ahead_age_nothing(
    tmp_path, open_log, record, clock, verifier
) -> None:
    """When the power fails the last line is torn, and the clock is wrong at the next start."""
    folder = _closed(open_log, record)
    held = segments(folder)
    with (folder / held[-1]).open("ab") as newest:
        newest.write(b'{"kind":"decision","seq":')
    clock[0] += 3650 * _DAY
    log = open_log(retention={"max_age_days": 7})
    fill(log, record, range(60, 80))
    log.close()
    assert log.keeper.removed == 0
    assert segments(folder)[: len(held)] == held


def test_what_goes_for_its_size_is_dated_by_the_clock(tmp_path, open_log, record, clock) -> None:
    """Days without a line hold back what is old, and not the date of what is done."""
    _closed(open_log, record)
    clock[0] += 8 * _DAY
    log = open_log(retention={"max_bytes": 8192})
    until(lambda: log.keeper.removed > 0)
    log.close()
    events = read_records(tmp_path / "log", kinds=("event",))
    (at,) = {each["at"] for each in events if each["event"] == "segments_removed"}
    assert at == format_time(clock[0])
