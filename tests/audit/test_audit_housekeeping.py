"""Segments are closed by age, compressed, and removed only as far as nothing is lost by it."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from decision_log_service import Service, serving
from kept_logs import NOW, fill, segments
from pydantic import ValidationError

from audit.chain import list_segments, read_raw_lines
from audit.checkpoint import parse_proof
from audit.checkpoint_files import checkpoint_name, frontier_name
from audit.commands import EXIT_INTACT, run_prove, run_verify
from audit.compressing import compress_closed
from audit.query import Query
from audit.query_engine import LogQueries
from audit.query_tail import follow
from audit.reader import count_lines, read_records
from audit.retaining import find_removal, remove
from audit.settings import AuditSettings, RetentionSettings
from audit.verify import verify_folder
from tests.waiting import until

_DAY = 86_400


def _bytes(folder: Path) -> int:
    """Return what the segments take; more than all where one goes meanwhile."""
    try:
        return sum(path.stat().st_size for _, path in list_segments(folder))
    except FileNotFoundError:
        return sys.maxsize


def _numbers(path: Path) -> list[int]:
    return [int(each["decision_id"], 16) for each in read_records(path)]


def _plain_lines(folder: Path) -> list[bytes]:
    return [raw for _, path in list_segments(folder) for raw in read_raw_lines(path)]


class TestAge:
    """A segment is closed once it is old and holds a line."""

    def test_old_segment_is_closed_before_the_next_line(self, open_log, record, clock) -> None:
        """The first line after the age goes into the next segment, also after a restart."""
        log = open_log(max_segment_seconds=60, max_segment_bytes=1 << 20)
        fill(log, record, range(3))
        clock[0] += 59
        fill(log, record, range(3, 4))
        assert log.writer.committed[0] == 1
        log.close()
        clock[0] += 2
        log = open_log(max_segment_seconds=60, max_segment_bytes=1 << 20)
        assert log.writer.committed[0] == 2
        log.close()
        assert _numbers(log.writer._segments.folder) == [0, 1, 2, 3]

    def test_old_segment_is_closed_while_nothing_comes(self, open_log, record, verifier) -> None:
        """In real time: a quiet log's last segment is closed and signed, once."""
        start = time.time()
        log = open_log(max_segment_seconds=1)
        log.writer._segments._clock = lambda: NOW + 1000 * (time.time() - start)
        fill(log, record, range(2))
        folder = log.writer._segments.folder
        until(lambda: log.writer.committed[0] > 1)
        newest = log.writer.committed[0]
        assert (folder / checkpoint_name(newest - 1)).is_file()
        log.close()
        assert verify_folder(folder, verifier=verifier).problems == ()


class TestCompression:
    """Closed segments become smaller and say the same."""

    def test_everything_reads_compressed_segments(
        self, tmp_path, open_log, record, verifier
    ) -> None:
        """Verify, reading, asking, watching and proving give what they gave before."""
        log = open_log()
        fill(log, record, range(40))
        log.close()
        folder = tmp_path / "log"
        before = _plain_lines(folder)
        size = sum(path.stat().st_size for _, path in list_segments(folder))
        assert compress_closed(folder, list_segments(folder)[-1][0]) > 2
        assert all(name.endswith(".gz") for name in segments(folder)[:-1])
        assert sum(path.stat().st_size for _, path in list_segments(folder)) < size / 3
        assert _plain_lines(folder) == before
        assert verify_folder(folder, verifier=verifier).problems == ()
        assert _numbers(folder) == list(range(40))
        assert count_lines(folder) == len(before)
        with LogQueries([folder]) as queries:
            found = [int(each["decision_id"], 16) for each in queries.records(Query())]
        assert found == list(range(40))
        tail = follow(folder, Query(), newest=3, wait=lambda: False)
        assert [int(each["decision_id"], 16) for each in tail] == list(range(37, 40))
        run_prove(folder, f"{5:032x}")

    def test_running_log_compresses_what_it_closed(
        self, tmp_path, open_log, record, verifier
    ) -> None:
        """Housekeeping compresses while lines are written, and a restart goes on after it."""
        for start in (0, 40):
            log = open_log(compression="gzip")
            fill(log, record, range(start, start + 40))
            until(lambda log=log: len(list((tmp_path / "log").glob("*.jsonl"))) == 1)
            log.close()
            assert log.keeper.fault is None
        assert verify_folder(tmp_path / "log", verifier=verifier).problems == ()
        assert _numbers(tmp_path / "log") == list(range(80))

    def test_sink_reads_compressed_segments(self, tmp_path, open_log, record) -> None:
        """A service that was away while segments were compressed gets all of them."""
        upload = {"name": "dl", "delay_milliseconds": 0, "min_retry_seconds": 0.01,
                  "max_retry_seconds": 0.02}  # fmt: skip
        with serving(Service()) as gone:
            pass
        sinks = {"uploads": [upload | {"url": gone.url}]}
        log = open_log(compression="gzip", sinks=sinks)
        fill(log, record, range(40))
        until(lambda: len(list((tmp_path / "log").glob("*.jsonl"))) == 1)
        with serving(gone):
            gone.wait(lambda: len(gone.events()) >= 40)
            log.close()
        assert [int(event["decision_id"], 16) for event in gone.events()] == list(range(40))

    def test_segment_that_is_compressed_while_it_is_read(self, tmp_path, open_log, record) -> None:
        """A reader that listed the plain file finds its lines in the compressed one."""
        log = open_log()
        fill(log, record, range(20))
        log.close()
        listed = list_segments(tmp_path / "log")
        lines = [raw for _, path in listed for raw in read_raw_lines(path)]
        compress_closed(tmp_path / "log", listed[-1][0])
        assert [raw for _, path in listed for raw in read_raw_lines(path)] == lines

    def test_newest_segment_that_somebody_compressed_is_gone_on_from(
        self, tmp_path, open_log, record, verifier
    ) -> None:
        """A log whose last segment was compressed by hand goes on in the next one."""
        log = open_log(max_segment_bytes=1 << 20)
        fill(log, record, range(5))
        log.close()
        compress_closed(tmp_path / "log", 2)
        log = open_log(max_segment_bytes=1 << 20)
        fill(log, record, range(5, 8))
        log.close()
        assert segments(tmp_path / "log") == ["audit-00000001.jsonl.gz", "audit-00000002.jsonl"]
        assert verify_folder(tmp_path / "log", verifier=verifier).problems == ()
        assert _numbers(tmp_path / "log") == list(range(8))

    def test_half_done_compression_is_done_again(self, tmp_path, open_log, record) -> None:
        """Where a plain segment still stands it counts, and its compression is made anew."""
        log = open_log()
        fill(log, record, range(20))
        log.close()
        folder = tmp_path / "log"
        (folder / "audit-00000001.jsonl.gz").write_bytes(b"half")
        (folder / ".audit-00000002.jsonl.gz.part").write_bytes(b"half")
        assert verify_folder(folder).problems == ()
        compress_closed(folder, list_segments(folder)[-1][0])
        assert verify_folder(folder).problems == ()
        assert _numbers(folder) == list(range(20))
        assert not list(folder.glob(".*"))


class TestRetention:
    """What goes was signed, was sent, and stands on record as gone."""

    def _closed(self, open_log, record, count: int = 60, **options: Any) -> Path:
        log = open_log(**options)
        fill(log, record, range(count))
        log.close()
        return log.writer._segments.folder

    def test_oldest_go_by_size_and_the_rest_verifies(
        self, tmp_path, open_log, record, verifier
    ) -> None:
        """A running log keeps to its bytes; what is left is intact and tells what went."""
        log = open_log(retention={"max_bytes": 30_000})
        for start in range(0, 100, 10):
            fill(log, record, range(start, start + 10))
        folder = tmp_path / "log"
        until(lambda: _bytes(folder) < 36_000)
        log.close()
        first = list_segments(folder)[0][0]
        assert first > 1
        assert log.keeper.removed == first - 1
        report = verify_folder(folder, verifier=verifier)
        assert report.problems == ()
        assert report.signed_lines == report.last_seq
        found = _numbers(folder)
        assert found == list(range(found[0], 100))
        events = [e["details"] for e in read_records(folder, kinds=("event",))
                  if e["event"] == "segments_removed"]  # fmt: skip
        assert events[-1]["last_segment"] == first - 1
        assert events[-1]["why"] == ["bytes"]

    def test_what_a_sink_does_not_have_stays(self, tmp_path, open_log, record) -> None:
        """Nothing is removed that was not acknowledged; once it was, it goes."""
        upload = {"name": "dl", "delay_milliseconds": 0, "min_retry_seconds": 0.01,
                  "max_retry_seconds": 0.02}  # fmt: skip
        with serving(Service()) as gone:
            pass
        options = {
            "retention": {"max_bytes": 1},
            "sinks": {"uploads": [upload | {"url": gone.url}]},
        }
        log = open_log(**options)
        fill(log, record, range(60))
        log.close()
        assert segments(tmp_path / "log")[0] == "audit-00000001.jsonl"
        with serving(gone):
            log = open_log(**options)
            gone.wait(lambda: len(gone.events()) >= 60)
            fill(log, record, range(60, 80))
            until(lambda: log.keeper.removed > 0)
            log.close()
        assert segments(tmp_path / "log")[0] != "audit-00000001.jsonl"
        found = [int(event["decision_id"], 16) for event in gone.events()]
        assert found == list(range(80))

    @pytest.mark.parametrize("lost", ["checkpoint", "frontier"])
    def test_what_was_not_signed_stays(self, open_log, record, lost: str) -> None:
        """A segment without checkpoint or frontier, and those after it, are not removed."""
        folder = self._closed(open_log, record)
        name = checkpoint_name(3) if lost == "checkpoint" else frontier_name(3)
        (folder / name).unlink()
        removal = find_removal(
            folder, RetentionSettings(max_bytes=1), now=NOW, open_segment=9, acknowledged=9
        )
        assert removal is not None
        assert [number for number, _ in removal.segments] == [1, 2]

    def test_retention_without_a_key_is_refused(self, tmp_path: Path) -> None:
        """What cannot be signed cannot be removed: the settings say so."""
        with pytest.raises(ValidationError, match="needs `checkpointKeyFile`"):
            AuditSettings(folder=tmp_path, retention={"max_bytes": 1})

    def test_lost_beginning_is_told_from_a_removed_one(
        self, tmp_path, open_log, record, verifier
    ) -> None:
        """Segments that are gone without a word of the record are missing, whatever is kept."""
        folder = self._closed(open_log, record)
        for number in (1, 2):
            (folder / f"audit-{number:08d}.jsonl").unlink()
        report = verify_folder(folder, verifier=verifier)
        assert any("no `segments_removed` event" in str(found) for found in report.problems)
        (folder / frontier_name(2)).unlink()
        assert any("missing before it: segment 1 to 2" in str(found)
                   for found in verify_folder(folder, verifier=verifier).problems)  # fmt: skip

    def _retained(self, open_log, record) -> Path:
        log = open_log(retention={"max_bytes": 12_000})
        fill(log, record, range(60))
        until(lambda: log.keeper.removed > 0)
        log.close()
        return log.writer._segments.folder

    @pytest.mark.parametrize("what", ["checkpoint", "frontier", "next"])
    def test_beginning_is_as_safe_as_the_rest(self, open_log, record, verifier, what: str) -> None:
        """Without the last removed segment's checkpoint or frontier the beginning is missing."""
        folder = self._retained(open_log, record)
        first = list_segments(folder)[0][0]
        assert verify_folder(folder, verifier=verifier).intact
        lost = {
            "checkpoint": checkpoint_name(first - 1),
            "frontier": frontier_name(first - 1),
            "next": f"audit-{first:08d}.jsonl",
        }
        (folder / lost[what]).unlink()
        assert any(
            "missing" in str(found) for found in verify_folder(folder, verifier=verifier).problems
        )

    def test_killed_while_removing(self, tmp_path, open_log, record, verifier) -> None:
        """A process that ends between two deletions leaves a log that verifies."""
        folder = self._closed(open_log, record)
        number = list_segments(folder)[-1][0]
        removal = find_removal(
            folder, RetentionSettings(max_bytes=1), now=NOW, open_segment=number, acknowledged=99
        )
        assert removal is not None
        original = tmp_path / "original"
        shutil.copytree(folder, original)
        for unlinks in range(1, 40, 3):
            shutil.rmtree(folder)
            shutil.copytree(original, folder)
            _announce(open_log, removal)
            pid = os.fork()
            if pid == 0:
                _die_after(unlinks)
                remove(folder, removal)
                os.kill(os.getpid(), signal.SIGKILL)
            os.waitpid(pid, 0)
            report = verify_folder(folder, verifier=verifier)
            assert report.problems == (), (unlinks, report.problems)
            open_log().close()
            assert verify_folder(folder, verifier=verifier).problems == ()

    def test_what_is_left_can_be_proven(self, open_log, record, verifier) -> None:
        """Proofs of the lines that are left hold, though the lines before them are gone."""
        folder = self._retained(open_log, record)
        for document in read_records(folder):
            entry, proof = run_prove(folder, document["decision_id"])
            assert parse_proof(proof).check(entry, verifier).size >= document["seq"]

    def test_report_of_a_retained_log(self, open_log, record) -> None:
        """The command says that it is intact, and where it begins."""
        out = io.StringIO()
        assert run_verify(self._retained(open_log, record), out) == EXIT_INTACT
        assert "begins after segment" in out.getvalue()


def _announce(open_log, removal) -> None:
    """Have the record say what will be removed, as the keeper does before."""
    from audit.record import AuditEvent, EventName

    log = open_log()
    log.writer.offer_durably(
        AuditEvent(event=EventName.SEGMENTS_REMOVED, at=NOW, details=removal.details)
    )
    log.close()


def _die_after(unlinks: int) -> None:
    """End this process by SIGKILL before so many files were removed."""
    left = [unlinks]
    unlink = Path.unlink

    def counted(self: Path, missing_ok: bool = False) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        unlink(self, missing_ok=missing_ok)

    Path.unlink = counted  # type: ignore[method-assign] - in a process that is about to end
