"""Sinks follow the record at their own pace, lose nothing, and hold nobody up."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from decision_log_service import DRIP, DROP, HANG, Service, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from audit.chain import list_segments, parse_line, read_raw_lines
from audit.open_log import OpenLog
from audit.reader import read_records
from audit.settings import AuditSettings
from audit.sinks.cursor import Cursor, cursor_path, load_cursor, save_cursor
from audit.sinks.following import Followed, SegmentFollower
from audit.sinks.opa_event import event_of
from audit.sinks.running import Pace, SinkRunner
from audit.sinks.settings import UploadSettings
from audit.sinks.sink import SinkError
from audit.sinks.stdout import StdoutSink

_EVER = (1 << 30, 0)
_ALL = 1 << 30


@contextmanager
def _following(
    folder: Path, cursor: Cursor, committed: tuple[int, int] = _EVER
) -> Iterator[SegmentFollower]:
    follower = SegmentFollower(folder, cursor, lambda: committed)
    try:
        yield follower
    finally:
        follower.close()


def _read(folder: Path, cursor: Cursor, committed: tuple[int, int] = _EVER) -> list[Followed]:
    with _following(folder, cursor, committed) as follower:
        return follower.read(_ALL)


@pytest.fixture
def service() -> Iterator[Service]:
    """A running service."""
    with serving(Service()) as running:
        yield running


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Callable[..., OpenLog]]:
    """A function that opens a log with an upload to a service; closed afterwards."""
    opened: list[OpenLog] = []

    def open_one(service: Service, **changes: Any) -> OpenLog:
        upload = {
            "name": "dl",
            "url": service.url,
            "delay_milliseconds": 0,
            "timeout_seconds": 0.3,
            "min_retry_seconds": 0.01,
            "max_retry_seconds": 0.02,
        } | changes.pop("upload", {})
        settings = AuditSettings(
            folder=tmp_path / "log",
            retry_milliseconds=20,
            **({"sinks": {"uploads": [upload]}} | changes),
        )
        opened.append(OpenLog(settings, node="front", clock=lambda: 1_700_000_000.0))
        return opened[-1]

    yield open_one
    for log in opened:
        if log.writer.health() != "the audit writer is closed":
            log.close()


def _numbers(events: list[dict[str, Any]]) -> list[int]:
    return [int(event["decision_id"], 16) for event in events]


def _offer(log: OpenLog, record, numbers: range) -> None:
    for number in numbers:
        log.writer.offer(record(number))


def test_every_decision_arrives_in_order(service, open_log, record) -> None:
    """Decisions are uploaded in gzip, in order, once, over the ends of segments."""
    log = open_log(service, max_segment_bytes=4096)
    _offer(log, record, range(60))
    log.close()
    assert _numbers(service.events()) == list(range(60))
    headers = service.headers[0]
    assert (headers["Content-Type"], headers["Content-Encoding"]) == ("application/json", "gzip")
    assert log.sinks[0].saved.seq == log.writer.last_seq


def test_event_is_of_opas_shape(service, open_log, record) -> None:
    """An event has the fields that services of OPA's decision logs know."""
    log = open_log(service, upload={"labels": {"app": "shop"}})
    _offer(log, record, range(1, 2))
    log.close()
    (event,) = service.events()
    assert event["labels"] == {"id": "front", "app": "shop"}
    assert event["decision_id"] == f"{1:032x}"
    assert event["bundles"] == {"policies": {"revision": "sha256:abc"}}
    assert event["timestamp"] == "2023-11-14T22:13:21.500000Z"
    assert event["requested_by"] == "10.0.0.1"
    assert event["metrics"] == {"timer_server_handler_ns": 0}
    http = event["input"]["attributes"]["request"]["http"]
    assert (http["method"], http["path"]) == ("GET", "/orders/1")
    assert event["input"]["attributes"]["source"]["principal"] == "spiffe://td/ns/a/sa/b"
    assert event["result"]["allowed"] is False
    assert event["result"]["policy"] == "shop/no-orders"
    assert event["result"]["shadow"][0]["policy"] == "shop/try"


@pytest.mark.parametrize(
    "answers",
    [[500] * 5, [401, 404], [(503, {"Retry-After": "0"})], [(429, {"Retry-After": "x"})], [302],
     [DROP] * 3, [HANG], [DRIP], [100]],
    ids=str,
)  # fmt: skip
def test_service_that_fails_gets_all_when_it_is_back(service, open_log, record, answers) -> None:
    """Errors, redirects, hanging and dripping answers are no acknowledgement; nothing is lost."""
    service.answers.extend(answers)
    log = open_log(service)
    _offer(log, record, range(30))
    service.wait(lambda: len(service.events()) >= 30)
    log.close()
    assert _numbers(service.events()) == list(range(30))
    assert log.sinks[0].failed >= 1
    assert log.sinks[0].fault is None


def test_retry_after_is_waited_for(record) -> None:
    """The pause doubles, half of it by chance, is bounded, and is as long as was asked for."""
    pace = Pace(delay_seconds=0, min_retry_seconds=1, max_retry_seconds=8, chance=lambda: 1.0)
    assert [pace.retry_seconds(failures, 0) for failures in (1, 2, 3, 4, 99)] == [1, 2, 4, 8, 8]
    early = Pace(delay_seconds=0, min_retry_seconds=1, max_retry_seconds=8, chance=lambda: 0.0)
    assert [early.retry_seconds(failures, 0) for failures in (1, 2)] == [0.5, 1]
    assert pace.retry_seconds(1, 5) == 5
    assert pace.retry_seconds(1, 9_999) == 8


def test_batch_too_large_is_halved(service, open_log, record) -> None:
    """A service that takes little gets it in small batches, each decision once."""
    service.most_bytes = 900
    log = open_log(service)
    _offer(log, record, range(40))
    log.close()
    assert _numbers(service.events()) == list(range(40))
    assert max(len(batch) for batch in service.batches) < 40


def test_own_limit_of_a_batch_is_kept(service, open_log, record) -> None:
    """No body is larger than the setting says."""
    log = open_log(service, upload={"max_batch_bytes": 1024})
    _offer(log, record, range(80))
    log.close()
    assert _numbers(service.events()) == list(range(80))
    assert max(map(len, service.bodies)) <= 1024


def test_decision_too_large_alone_is_told_by_its_id(service, open_log, record) -> None:
    """What no batch can hold is stood for by its id, answer and place in the record."""
    noise = os.urandom(4000).hex()
    log = open_log(service, upload={"max_batch_bytes": 1024})
    log.writer.offer(record(1))
    log.writer.offer(record(2, source_address=noise))
    log.writer.offer(record(3))
    log.close()
    events = service.events()
    assert _numbers(events) == [1, 2, 3]
    assert events[1]["erased"] == ["/input"]
    assert events[1]["result"]["allowed"] is False


def test_dead_service_holds_nobody_up(tmp_path, open_log, record) -> None:
    """With nobody listening every record is taken and written; back again, it gets them all."""
    with serving(Service()) as gone:
        pass
    log = open_log(gone, queue_size=50, queue_wait_milliseconds=10_000)
    _offer(log, record, range(500))
    deadline = time.monotonic() + 20
    while log.writer.waiting and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert (log.writer.refused, log.writer.waiting) == (0, 0)
    gone.let_go.clear()
    with serving(gone):
        gone.wait(lambda: len(gone.events()) >= 500)
        assert _numbers(gone.events()) == list(range(500))
        log.close()


def test_killed_process_goes_on_after_what_was_acknowledged(
    tmp_path, service, open_log, record
) -> None:
    """After `kill -9` at most the unacknowledged batch comes twice, and none is lost."""
    for start in range(0, 90, 30):
        pid = os.fork()
        if pid == 0:
            log = open_log(service, max_segment_bytes=4096, upload={"max_batch_bytes": 1024})
            _offer(log, record, range(start, start + 30))
            while log.sinks[0].sent < 10:
                threading.Event().wait(0.001)
            os.kill(os.getpid(), 9)
        os.waitpid(pid, 0)
    log = open_log(service, max_segment_bytes=4096, upload={"max_batch_bytes": 1024})
    log.close()
    recorded = [int(each["decision_id"], 16) for each in read_records(tmp_path / "log")]
    found = _numbers(service.events())
    assert sorted(set(found)) == recorded
    twice = len(found) - len(set(found))
    assert twice <= 3 * max(len(batch) for batch in service.batches)


def test_token_is_read_for_each_batch(tmp_path, service, open_log, record) -> None:
    """A rotated token counts from the next batch on, and stands in nothing that is written."""
    token = tmp_path / "token"
    token.write_text("first-secret\n")
    log = open_log(service, upload={"token_file": token})
    _offer(log, record, range(1))
    service.wait(lambda: len(service.events()) == 1)
    token.write_text("second-secret\n")
    _offer(log, record, range(1, 2))
    service.wait(lambda: len(service.events()) == 2)
    token.write_text("bad\nsecret")
    _offer(log, record, range(2, 3))
    deadline = time.monotonic() + 20
    while log.sinks[0].fault is None and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert "secret" not in str(log.sinks[0].fault)
    log.close()
    tokens = [headers["Authorization"] for headers in service.headers]
    assert tokens == ["Bearer first-secret", "Bearer second-secret"]
    written = b"".join(each.read_bytes() for each in (tmp_path / "log").iterdir())
    assert b"secret" not in written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "ftp://x/"}, "must be an `http` or `https` address"),
        ({"url": "https:///logs"}, "must be an `http` or `https` address"),
        ({"url": "https://me:secret@x/"}, "must not hold a password"),
        ({"url": "http://example.org/", "token_file": "t"}, "over `https` only"),
        ({"url": "https://example.org/", "key_file": "k"}, "belong together"),
        ({"url": "https://example.org/", "name": "../x"}, "pattern"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes, message) -> None:
    """An address with a password, a token in the open, and a name that leads out are errors."""
    with pytest.raises(ValidationError, match=message):
        UploadSettings(**({"name": "dl"} | changes))


class TestCursor:
    """How far a sink has the record."""

    def test_cursor_comes_back(self, tmp_path: Path) -> None:
        """What was saved is loaded; nothing there is the beginning."""
        path = cursor_path(tmp_path, "x")
        assert load_cursor(path) == Cursor()
        save_cursor(path, Cursor(3, 4, 5, "6" * 64, "7"))
        assert load_cursor(path) == Cursor(3, 4, 5, "6" * 64, "7")

    @given(noise=st.binary(max_size=80) | st.just(b'{"segment": -1}') | st.just(b'{"seq": "1"}'))
    def test_noise_is_the_beginning(self, tmp_path_factory, noise: bytes) -> None:
        """A damaged cursor has everything sent again, and is no error."""
        path = tmp_path_factory.mktemp("cursor") / "sink-x.cursor"
        path.write_bytes(noise)
        assert load_cursor(path) == Cursor()

    def test_every_place_is_gone_on_from(self, log: Path) -> None:
        """From the cursor after each line exactly the lines after it are read."""
        lines = [raw for _, path in list_segments(log) for raw in read_raw_lines(path)]
        whole = _read(log, Cursor())
        assert [each.raw for each in whole] == lines
        for place, each in enumerate(whole):
            with _following(log, each.cursor) as follower:
                assert [found.raw for found in follower.read(_ALL)] == lines[place + 1 :]
                assert not follower.is_anew

    def test_cursor_of_lines_that_were_lost(self, log: Path) -> None:
        """After a power cut took lines, their segment is sent again from its begin."""
        end = _read(log, Cursor())[-1].cursor
        path = list_segments(log)[-1][1]
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-1]))
        with _following(log, end) as follower:
            assert follower.is_anew
            assert [found.raw for found in follower.read(_ALL)] == lines[:-1]

    def test_cursor_of_another_log(self, log: Path, tmp_path, open_writer, record) -> None:
        """In another log everything is sent from its first line."""
        writer = open_writer(folder=tmp_path / "other")
        writer.offer(record(1))
        writer.close()
        cursor = _read(log, Cursor())[30].cursor
        assert parse_line(_read(tmp_path / "other", cursor)[0].raw).seq == 1

    def test_what_is_not_committed_is_not_read(self, log: Path) -> None:
        """Lines after the committed size do not go out: the writer may take them back."""
        raw = list_segments(log)[0][1].read_bytes().splitlines(keepends=True)
        size = len(raw[0]) + len(raw[1])
        found = _read(log, Cursor(), (1, size))
        assert [each.raw for each in found] == raw[:2]
        assert _read(log, found[-1].cursor, (1, size)) == []
        more = _read(log, found[-1].cursor, (1, size + len(raw[2])))
        assert [each.raw for each in more] == raw[2:3]

    def test_damaged_lines_are_left_out(self, log: Path) -> None:
        """A line that does not hold its own hash does not go out, those after it do."""
        path = list_segments(log)[0][1]
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"deny", b"dany"), *lines[3:]]))
        with _following(log, Cursor(), (1, _ALL)) as follower:
            assert [each.raw for each in follower.read(_ALL)] == [*lines[:2], *lines[3:]]
            assert follower.damaged == 1


class TestStdout:
    """Lines as they are, to a descriptor."""

    def _runner(self, log: Path, fd: int) -> SinkRunner:
        pace = Pace(
            delay_seconds=0, min_retry_seconds=0.01, max_retry_seconds=0.02, chance=lambda: 0.0
        )
        return SinkRunner(StdoutSink(fd), log, lambda: _EVER, pace)

    def test_lines_come_as_they_are(self, log: Path) -> None:
        """Headers, events and decisions, byte for byte."""
        reading, writing = os.pipe()
        lines = b"".join(path.read_bytes() for _, path in list_segments(log))
        runner = self._runner(log, writing)
        runner.start()
        found = b""
        while len(found) < len(lines):
            found += os.read(reading, 65536)
        runner.close(timeout_seconds=5)
        assert found == lines
        os.close(reading)
        os.close(writing)

    def test_reader_that_is_gone_is_a_fault(self, log: Path) -> None:
        """A closed pipe is told, and tried again; the process lives on."""
        reading, writing = os.pipe()
        os.close(reading)
        with pytest.raises(SinkError, match="standard output"):
            StdoutSink(writing).send([b"x\n"])
        os.close(writing)


@settings(max_examples=40)
@given(document=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["request", "decision", "peer", "subject", "source", "x"]), inner,
        max_size=4),
    max_leaves=12,
).filter(lambda value: isinstance(value, dict)))  # fmt: skip
def test_any_document_makes_an_event(document: dict[str, Any]) -> None:
    """A document that is not as it should be makes an event with less in it, and no error."""
    assert event_of(document, {})["path"] == "meshwarden/decision"


def test_upload_over_tls_checks_the_service(tmp_path, record, open_log, service) -> None:
    """An address of `https` that answers without TLS gets nothing of the record."""
    upload = {"url": service.url.replace("http:", "https:")}
    log = open_log(service, upload=upload)
    _offer(log, record, range(3))
    deadline = time.monotonic() + 20
    while log.sinks[0].fault is None and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert "cannot be reached" in str(log.sinks[0].fault)
    log.close()
    assert service.bodies == []
