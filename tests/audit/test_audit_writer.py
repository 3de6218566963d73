"""What was accepted is written, in order, whatever happens; what cannot be, is refused."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from audit import segments
from audit.chain import list_segments
from audit.document import LINE_ADAPTER, json_schema
from audit.errors import AuditFolderError, AuditLockedError, AuditUnavailable
from audit.reader import read_records
from audit.record import AuditEvent, EventName
from audit.verify import verify_folder
from tests.waiting import until

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_EVENTS = ("event",)


def test_everything_accepted_is_written_in_order(tmp_path, open_writer, record) -> None:
    """Records come back in the order of acceptance, between `start` and `stop`."""
    writer = open_writer(max_segment_bytes=8192)
    for number in range(100):
        writer.offer(record(number))
    writer.close()
    found = [document["decision_id"] for document in read_records(tmp_path / "log")]
    assert found == [f"{number:032x}" for number in range(100)]
    events = [event["event"] for event in read_records(tmp_path / "log", kinds=_EVENTS)]
    assert events == ["start", "stop"]
    assert (writer.written, writer.waiting, writer.failed) == (102, 0, 0)


def test_enough_records_or_the_end_wait_for_no_clock(
    tmp_path, open_writer, record, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a queue of records is written at once, again and again, and so is what waits at the end.

    The clock that the writer wakes by while records keep coming never strikes here.
    """
    monkeypatch.setattr("audit.intake._GATHER_SECONDS", 3600)
    writer = open_writer(queue_size=8)
    for group in range(5):
        for number in range(4):
            writer.offer(record(group * 4 + number))
        until(lambda: writer.waiting == 0)
    writer.offer(record(20))
    writer.close()
    found = [document["decision_id"] for document in read_records(tmp_path / "log")]
    assert found == [f"{number:032x}" for number in range(21)]


def test_a_lone_record_is_written_soon(open_writer, record) -> None:
    """A record that comes while the writer rests wakes it, however often that happens."""
    writer = open_writer()
    for number in range(5):
        writer.offer(record(number))
        until(lambda: writer.waiting == 0)
        until(lambda: writer._intake._is_resting)


def test_every_line_fits_the_published_schema(log: Path) -> None:
    """Each written line is of schema version 1, and the published file is that schema."""
    for _, path in list_segments(log):
        for raw in path.read_bytes().splitlines():
            LINE_ADAPTER.validate_json(raw, strict=True)
    published = _ROOT / "audit" / "schema" / "record-v1.schema.json"
    assert json.loads(published.read_text()) == json_schema()


def test_chain_goes_on_after_an_orderly_stop(tmp_path, open_writer, record) -> None:
    """A second writer appends to the same chain without a `resume`."""
    for number in range(3):
        writer = open_writer()
        writer.offer(record(number))
        writer.close()
    assert verify_folder(tmp_path / "log").problems == ()
    events = [event["event"] for event in read_records(tmp_path / "log", kinds=_EVENTS)]
    assert events == ["start", "stop"] * 3


@pytest.mark.parametrize("kills", range(3))
def test_killed_process_leaves_a_chain_that_goes_on(tmp_path, open_writer, kills) -> None:
    """After `kill -9` under load the next writer says `resume`, and the whole log verifies."""
    folder = tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_HERE)])}
    child = subprocess.Popen(
        [sys.executable, str(_HERE / "writing_process.py"), str(folder)],
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert child.stdout is not None
    for _ in range(3 + 7 * kills):
        child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    open_writer().close()
    report = verify_folder(folder)
    assert report.problems == ()
    events = [event["event"] for event in read_records(folder, kinds=_EVENTS)]
    assert events == ["start", "resume", "start", "stop"]


def test_torn_line_is_kept_aside(tmp_path, open_writer, log) -> None:
    """The bytes of an unfinished line are preserved, named by `resume`, and off the chain."""
    path = list_segments(log)[-1][1]
    with path.open("ab") as file:
        file.write(b'{"seq":99,"prev":"half')
    assert not verify_folder(log).intact
    open_writer().close()
    assert (log / f"{path.name}.torn").read_bytes() == b'{"seq":99,"prev":"half'
    (resume,) = [event for event in read_records(log, kinds=_EVENTS) if event["event"] == "resume"]
    assert resume["details"]["torn_bytes"] == 22
    report = verify_folder(log)
    assert report.intact
    assert any(".torn" in note for note in report.notes)


@pytest.mark.parametrize("keep", [0, 17])
def test_segment_that_never_began_is_begun_again(log, open_writer, keep) -> None:
    """A newest segment without a whole header is replaced, and the chain goes on before it."""
    number = list_segments(log)[-1][0] + 1
    (log / f"audit-{number:08d}.jsonl").write_bytes(b'{"seq":1234,"prev":"0000'[:keep])
    open_writer().close()
    assert verify_folder(log).problems == ()


def test_damaged_last_line_stays_where_it_is(log, open_writer) -> None:
    """A changed last line is not tidied away: writing goes on in a new segment, verify names it."""
    path = list_segments(log)[-1][1]
    path.write_bytes(path.read_bytes().replace(b'"stop"', b'"stop "'))
    open_writer().close()
    (found,) = verify_folder(log).problems
    assert found.file == path.name


def test_two_writers_never_share_a_folder(tmp_path, open_writer) -> None:
    """A second writer is refused at start; the folder is free again after the first closed."""
    first = open_writer()
    with pytest.raises(AuditLockedError):
        open_writer()
    first.close()
    open_writer().close()


def test_unusable_folder_is_refused_at_start(tmp_path, open_writer) -> None:
    """A folder that cannot be made is an error before anything is served."""
    (tmp_path / "file").touch()
    with pytest.raises(AuditFolderError):
        open_writer(folder=tmp_path / "file" / "log")


def test_vanished_folder_refuses_then_recovers(tmp_path, open_writer, record) -> None:
    """While the folder is away offers are refused; nothing accepted is lost when it is back."""
    folder, away = tmp_path / "log", tmp_path / "away"
    writer = open_writer()
    writer.offer(record(1))
    until(lambda: writer.waiting == 0 and writer.written == 2)
    folder.rename(away)
    writer.offer(record(2))
    until(lambda: writer.health() is not None)
    with pytest.raises(AuditUnavailable):
        writer.offer(record(3))
    away.rename(folder)
    until(lambda: writer.health() is None)
    writer.offer(record(4))
    writer.close()
    found = [int(document["decision_id"], 16) for document in read_records(folder)]
    assert found == [1, 2, 4]
    assert verify_folder(folder).problems == ()
    events = [event["event"] for event in read_records(folder, kinds=_EVENTS)]
    assert events == ["start", "resume", "stop"]


def test_deleted_log_goes_on_in_a_new_segment(tmp_path, open_writer, record) -> None:
    """A log deleted under the writer is missed by verify, and new records are still written."""
    folder = tmp_path / "log"
    writer = open_writer()
    shutil.rmtree(folder)
    writer.offer(record(1))
    until(lambda: writer.health() is not None)
    folder.mkdir()
    until(lambda: writer.health() is None)
    writer.close()
    assert [int(document["decision_id"], 16) for document in read_records(folder)] == [1]
    assert "missing before it: segment 1" in verify_folder(folder).problems[0].what


def test_full_disk_refuses_then_recovers(tmp_path, open_writer, record) -> None:
    """Past the file size limit offers are refused; freed, every accepted record is there once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = open_writer(max_segment_bytes=1 << 20)
    # The kernel answers EFBIG for a file past the limit; Python ignores SIGXFSZ.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    accepted = []
    try:
        for number in range(400):
            try:
                writer.offer(record(number))
            except AuditUnavailable:
                break
            accepted.append(number)
            if number % 10 == 9:
                until(lambda: writer.waiting == 0 or writer.health() is not None)
        until(lambda: writer.health() is not None)
        assert "cannot be written" in str(writer.health())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    until(lambda: writer.health() is None)
    writer.close()
    found = [int(document["decision_id"], 16) for document in read_records(tmp_path / "log")]
    assert found == accepted
    assert verify_folder(tmp_path / "log").problems == ()


def test_full_queue_waits_then_refuses(tmp_path, open_writer, record) -> None:
    """With the writer stuck the queue fills to its bound, and the next offer is refused."""
    writer = open_writer(queue_size=5, queue_wait_milliseconds=20)
    stuck, go_on = threading.Event(), threading.Event()
    append = writer._segments.append

    def wait_then_append(*args, **options):
        stuck.set()
        go_on.wait(10)
        return append(*args, **options)

    writer._segments.append = wait_then_append
    writer.offer(record(0))
    assert stuck.wait(10)
    for number in range(1, 6):
        writer.offer(record(number))
    with pytest.raises(AuditUnavailable, match="queue is full"):
        writer.offer(record(6))
    assert writer.refused == 1
    go_on.set()
    writer.close()
    found = [int(document["decision_id"], 16) for document in read_records(tmp_path / "log")]
    assert found == [0, 1, 2, 3, 4, 5]


def test_many_threads_lose_nothing(tmp_path, open_writer, record) -> None:
    """Eight threads against a small queue: every accepted record is written exactly once."""
    writer = open_writer(queue_size=16, queue_wait_milliseconds=10_000)

    def offer_many(first: int) -> None:
        for number in range(first, first + 100):
            writer.offer(record(number))

    threads = [threading.Thread(target=offer_many, args=(100 * at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    found = sorted(int(document["decision_id"], 16) for document in read_records(tmp_path / "log"))
    assert found == list(range(800))
    assert verify_folder(tmp_path / "log").problems == ()


def test_closed_writer_refuses(open_writer, record) -> None:
    """After close, which may be called twice, nothing is accepted."""
    writer = open_writer()
    writer.close()
    writer.close()
    with pytest.raises(AuditUnavailable, match="closed"):
        writer.offer(record(1))
    assert writer.health() == "the audit writer is closed"


def test_events_are_records_too(tmp_path, open_writer) -> None:
    """A reload stands in the chain with its details."""
    writer = open_writer(fsync="batch")
    details = {"revision": "sha256:abc", "odd": float("nan"), "object": object()}
    writer.offer(AuditEvent(event=EventName.RELOAD, at=1_700_000_000.0, details=details))
    writer.close()
    found = list(read_records(tmp_path / "log", kinds=_EVENTS))[1]
    assert found["details"] == {"revision": "sha256:abc", "odd": "nan", "object": "(object)"}


def test_record_that_cannot_be_written_leaves_a_fault(tmp_path, open_writer, record) -> None:
    """An odd or huge record is replaced by an event that names its decision; others follow it."""
    writer = open_writer()
    writer.offer(record(1, decided_at="no time"))
    writer.offer(record(2, revision="x" * (5 << 20)))
    writer.offer(record(3, revision={1, 2}))
    writer.offer(record(4))
    writer.close()
    faults = list(read_records(tmp_path / "log", kinds=_EVENTS))[1:-1]
    assert [event["event"] for event in faults] == ["record_fault"] * 3
    assert [int(event["details"]["decision_id"], 16) for event in faults] == [1, 2, 3]
    assert [int(found["decision_id"], 16) for found in read_records(tmp_path / "log")] == [4]
    assert verify_folder(tmp_path / "log").problems == ()


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_file_that_could_not_be_cut_back_is_cut_later(
    tmp_path, open_writer, record, monkeypatch, is_whole: bool
) -> None:
    """What a failed write left, which could not be taken away at once, breaks no chain."""
    writer = open_writer(mode="strict", queue_wait_milliseconds=5000)
    writer.offer(record(1))
    write, cut, is_broken = segments._write_all, os.ftruncate, True

    def write_and_fail(fd: int, data: bytes) -> None:
        write(fd, data if is_whole or not is_broken else data[:50])
        if is_broken:
            raise OSError(errno.EIO, "the disk is gone")

    def refuse_to_cut(fd: int, size: int) -> None:
        if is_broken:
            raise OSError(errno.EROFS, "nothing is written")
        cut(fd, size)

    monkeypatch.setattr(segments, "_write_all", write_and_fail)
    monkeypatch.setattr(os, "ftruncate", refuse_to_cut)
    with pytest.raises(AuditUnavailable):
        writer.offer(record(2))
    is_broken = False
    until(lambda: writer.health() is None)
    writer.offer(record(3))
    writer.close()
    assert verify_folder(tmp_path / "log").intact
    assert [each["decision_id"] for each in read_records(tmp_path / "log")] == [
        f"{number:032x}" for number in (1, 3)
    ]


@pytest.mark.parametrize("what", ["sync", "seal"])
def test_an_end_that_is_not_sure_is_told(open_writer, record, what: str) -> None:
    """Who closes a log whose last lines the disk did not take hears of it."""
    writer = open_writer(fsync="interval", fsync_milliseconds=60_000)
    writer.offer(record())
    until(lambda: writer.waiting == 0)

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    setattr(writer._segments, what, fail)

    with pytest.raises(AuditUnavailable, match="may not be on the disk: .* Input/output error"):
        writer.close()
