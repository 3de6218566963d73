"""What each mode promises when the process is killed, the disk is full, or the writer is slow."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from audit.accepted_count import AcceptedCount
from audit.errors import AuditUnavailable
from audit.reader import read_records
from audit.verify import verify_folder
from tests.waiting import until

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_KILLS = int(os.environ.get("MESHWARDEN_AUDIT_KILLS", "3"))


def _decisions(folder: Path) -> list[int]:
    return [int(document["decision_id"], 16) for document in read_records(folder)]


def _events(folder: Path, name: str) -> list[dict[str, Any]]:
    events = read_records(folder, kinds=("event",))
    return [event["details"] for event in events if event["event"] == name]


@contextmanager
def _full_disk(size: int = 20_000) -> Iterator[None]:
    """Let no file of this process grow past `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def _stuck(writer) -> Iterator[threading.Event]:
    """Hold the next append until the block ends; the event says that it began."""
    begun, go_on = threading.Event(), threading.Event()
    append = writer._segments.append

    def wait_then_append(*args, **options):
        begun.set()
        go_on.wait(10)
        return append(*args, **options)

    writer._segments.append = wait_then_append
    try:
        yield begun
    finally:
        writer._segments.append = append
        go_on.set()


def _killed(folder: Path, mode: str, lines: int) -> list[int]:
    """Kill a writing process after it printed some lines; return all the numbers it printed."""
    path = os.pathsep.join([str(_ROOT), str(_HERE)])
    child = subprocess.Popen(
        [sys.executable, str(_HERE / "writing_process.py"), str(folder), mode],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert child.stdout is not None
    printed = [child.stdout.readline() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    printed += child.stdout.readlines()
    child.wait()
    child.stdout.close()
    return [int(line) for line in printed if line.endswith(b"\n")]


@pytest.mark.parametrize("mode", ["strict", "spill", "best-effort"])
def test_killed_writer_keeps_what_its_mode_promises(tmp_path, open_writer, mode: str) -> None:
    """After `kill -9` nothing answered is lost in `strict`, and what is lost elsewhere is told."""
    for kill in range(_KILLS):
        folder = tmp_path / f"log{kill}"
        printed = _killed(folder, mode, 2 + (7 * kill) % 23)
        open_writer(folder=folder).close()
        assert verify_folder(folder).problems == ()
        found = _decisions(folder)
        # Numbers are offered in order, so what is lost is a tail.
        assert found == list(range(1, len(found) + 1))
        (resume,) = _events(folder, "resume")
        lost = resume.get("unwritten_records", 0)
        if mode == "strict":
            assert len(found) >= printed[-1]
            assert lost <= 1
        else:
            assert len(found) + lost >= printed[-1]
            assert lost <= 10_000


def test_accepted_count_says_what_was_lost(tmp_path: Path) -> None:
    """The count outlives its process; headers are no records, and what is not known is 0."""
    first = AcceptedCount(tmp_path, seq=0, segment=0)
    assert first.unwritten == 0
    first.begin(seq=2, segment=1)
    first.add(10)
    first.add(-1)
    assert AcceptedCount(tmp_path, seq=2, segment=1).unwritten == 9
    assert AcceptedCount(tmp_path, seq=9, segment=3).unwritten == 4
    assert AcceptedCount(tmp_path, seq=99, segment=3).unwritten == 0
    assert AcceptedCount(tmp_path, seq=1, segment=0).unwritten == 0
    (tmp_path / "audit.accepted").write_bytes(b"noise")
    assert AcceptedCount(tmp_path, seq=2, segment=1).unwritten == 0


class TestStrict:
    """No answer leaves before its record is on the disk."""

    def test_offer_returns_once_it_is_written(self, tmp_path, open_writer, record) -> None:
        """When the offer is over the line stands in the file, and was forced to the disk."""
        writer = open_writer(mode="strict", fsync="never")
        for number in range(20):
            writer.offer(record(number))
            assert _decisions(tmp_path / "log")[-1] == number
            assert not writer._segments.is_dirty
        writer.close()
        assert verify_folder(tmp_path / "log").problems == ()

    def test_many_threads_share_a_commit(self, tmp_path, open_writer, record) -> None:
        """Offers of many threads are each on record exactly once."""
        writer = open_writer(mode="strict", queue_wait_milliseconds=10_000)

        def offer_many(first: int) -> None:
            for number in range(first, first + 50):
                writer.offer(record(number))

        threads = [threading.Thread(target=offer_many, args=(50 * at,)) for at in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(_decisions(tmp_path / "log")) == list(range(400))

    def test_full_disk_denies_and_keeps_nothing_denied(self, tmp_path, open_writer, record) -> None:
        """What is refused is not on record as allowed later; freed, offers are accepted again."""
        writer = open_writer(mode="strict", max_segment_bytes=1 << 20)
        accepted = []
        with _full_disk():
            for number in range(400):
                try:
                    writer.offer(record(number))
                except AuditUnavailable:
                    break
                accepted.append(number)
            assert 0 < len(accepted) < 400
            assert writer.is_denying
            with pytest.raises(AuditUnavailable, match="cannot be written"):
                writer.offer(record(998))
        until(lambda: writer.health() is None)
        writer.offer(record(999))
        assert _decisions(tmp_path / "log") == [*accepted, 999]
        writer.close()
        assert verify_folder(tmp_path / "log").problems == ()
        assert [found["failed_attempts"] for found in _events(tmp_path / "log", "resume")] == [1]

    def test_late_record_is_told(self, tmp_path, open_writer, record) -> None:
        """A record that came to the disk after its answer was denied is named as such."""
        writer = open_writer(mode="strict", queue_wait_milliseconds=30)
        with _stuck(writer) as begun:
            with pytest.raises(AuditUnavailable, match="in time"):
                writer.offer(record(1))
            assert begun.is_set()
            with pytest.raises(AuditUnavailable, match="in time"):
                writer.offer(record(2))
        until(lambda: writer.waiting == 0)
        writer.close()
        assert _decisions(tmp_path / "log") == [1]
        (late,) = _events(tmp_path / "log", "record_late")
        assert late == {"answered": "deny", "decision_ids": [f"{1:032x}"]}
        assert writer.refused == 2
        open_writer().close()
        assert _events(tmp_path / "log", "resume") == []

    def test_what_is_late_at_the_end_is_told_before_stop(
        self, tmp_path, open_writer, record
    ) -> None:
        """A record that is late while the writer closes is named, and `stop` is the last line."""
        writer = open_writer(mode="strict", queue_wait_milliseconds=700)
        append, gates = writer._segments.append, [threading.Event(), threading.Event()]
        held = iter(gates)

        def wait_then_append(*args, **options):
            for gate in itertools.islice(held, 1):
                gate.wait(10)
            return append(*args, **options)

        writer._segments.append = wait_then_append
        with ThreadPoolExecutor() as others:
            others.submit(writer.offer, record(1))
            until(lambda: writer.waiting == 1 and not len(writer._intake))
            late = others.submit(writer.offer, record(2))
            until(lambda: len(writer._intake) == 1)
            closed = others.submit(writer.close)
            until(lambda: writer._intake.is_closing)
            gates[0].set()
            assert isinstance(late.exception(10), AuditUnavailable)
            gates[1].set()
            closed.result(10)
        assert _decisions(tmp_path / "log") == [1, 2]
        events = [each["event"] for each in read_records(tmp_path / "log", kinds=("event",))]
        assert events == ["start", "record_late", "stop"]
        open_writer().close()
        assert _events(tmp_path / "log", "resume") == []


class TestBestEffort:
    """Nothing is denied for want of a record; what is dropped is counted and told."""

    def test_full_queue_drops_and_tells(self, tmp_path, open_writer, record) -> None:
        """Offers past the bound return at once, and the record says how many were dropped."""
        writer = open_writer(mode="best-effort", queue_size=5)
        with _stuck(writer) as begun:
            writer.offer(record(0))
            assert begun.wait(10)
            for number in range(1, 10):
                writer.offer(record(number))
            assert writer.dropped == {"queue_full": 4, "unwritable": 0, "closed": 0}
        writer.close()
        assert _decisions(tmp_path / "log") == [0, 1, 2, 3, 4, 5]
        expected = [{"records": 4, "causes": {"queue_full": 4}}]
        assert _events(tmp_path / "log", "dropped") == expected
        writer.offer(record(10))
        assert writer.dropped["closed"] == 1
        open_writer().close()
        assert _events(tmp_path / "log", "resume") == []

    def test_full_disk_denies_nothing(self, tmp_path, open_writer, record) -> None:
        """With the disk full offers go on, up to memory's bound kept and beyond it dropped."""
        writer = open_writer(mode="best-effort", max_segment_bytes=1 << 20, queue_size=50)
        with _full_disk():
            for number in range(50):
                writer.offer(record(number))
                until(lambda: writer.waiting == 0 or writer.health() is not None)
            until(lambda: writer.health() is not None)
            for number in range(50, 200):
                writer.offer(record(number))
            assert not writer.is_denying
            dropped = writer.dropped["unwritable"]
            assert dropped > 0
        until(lambda: writer.health() is None)
        writer.close()
        found = _decisions(tmp_path / "log")
        assert found == list(range(200 - dropped))
        (told,) = _events(tmp_path / "log", "dropped")
        assert told == {"records": dropped, "causes": {"unwritable": dropped}}
        assert verify_folder(tmp_path / "log").problems == ()


def test_spill_says_what_a_killed_writer_held(tmp_path, open_writer, record) -> None:
    """Records that waited in memory when the process ended are counted by the next one."""
    folder = tmp_path / "log"
    pid = os.fork()
    if pid == 0:
        writer = open_writer()
        with _stuck(writer) as begun:
            writer.offer(record(1))
            begun.wait(10)
            writer.offer(record(2))
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    open_writer().close()
    (resume,) = _events(folder, "resume")
    assert resume["unwritten_records"] == 2
    open_writer().close()
    assert len(_events(folder, "resume")) == 1
