"""What a worker left behind is sent on, compressed and retained by those that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from audit_records import make_record
from decision_log_service import Service, serving

from audit.chain import list_segments
from audit.folder_lock import FolderLock
from audit.open_log import OpenLog
from audit.reader import read_records
from audit.settings import AuditSettings
from audit.signed_note import load_signer, new_private_key
from audit.verify import verify_folder
from tests.waiting import until


@pytest.fixture
def gone() -> Service:
    """A service that is away, with a port of its own."""
    with serving(Service()) as service:
        pass
    service.let_go.clear()
    return service


def _settings(folder: Path, service: Service, **changes: object) -> AuditSettings:
    (folder / "key.pem").write_bytes(new_private_key())
    upload = {"name": "dl", "url": service.url, "delay_milliseconds": 0, "min_retry_seconds": 0.01,
              "max_retry_seconds": 0.02}  # fmt: skip
    return AuditSettings(
        folder=folder / "log",
        max_segment_bytes=4096,
        checkpoint_key_file=folder / "key.pem",
        sinks={"uploads": [upload]},
        **changes,
    )


def _write(settings: AuditSettings, worker: str, numbers: range) -> None:
    log = OpenLog(settings.for_worker(worker, node="front") if worker else settings, node="front")
    for number in numbers:
        log.writer.offer(make_record(number))
    log.close()


@pytest.mark.parametrize("left", ["1b", ""])
def test_what_a_log_at_rest_holds_is_sent(tmp_path: Path, gone: Service, left: str) -> None:
    """A worker sends what one that was replaced, or the process before workers, could not."""
    settings = _settings(tmp_path, gone)
    _write(settings, left, range(30))
    with serving(gone):
        log = OpenLog(settings.for_worker("1", node="front"), node="front", instance=settings)
        log.writer.offer(make_record(99))
        gone.wait(lambda: len(gone.events()) >= 31)
        log.close()
        again = OpenLog(settings.for_worker("1", node="front"), node="front", instance=settings)
        again.close()
    found = [int(event["decision_id"], 16) for event in gone.events()]
    # One that ends while it sends may have sent what nobody acknowledged to it.
    assert sorted(set(found)) == [*range(30), 99]


def test_log_that_is_written_is_left_alone(tmp_path: Path, gone: Service) -> None:
    """The log of a living worker is its own to send."""
    settings = _settings(tmp_path, gone)
    _write(settings, "2", range(5))
    lock = FolderLock(settings.for_worker("2", node="front").folder)
    with serving(gone):
        log = OpenLog(settings.for_worker("1", node="front"), node="front", instance=settings)
        log.writer.offer(make_record(99))
        gone.wait(lambda: len(gone.events()) >= 1)
        log.close()
    lock.release()
    assert [int(event["decision_id"], 16) for event in gone.events()] == [99]


def test_log_at_rest_is_compressed_and_retained(tmp_path: Path, gone: Service) -> None:
    """What is removed of it stands in its own chain, which verifies."""
    settings = _settings(tmp_path, gone, compression="gzip", retention={"max_bytes": 1})
    resting = settings.for_worker("1b", node="front").folder
    with serving(gone):
        _write(settings, "1b", range(30))
    newest = list_segments(resting)[-1][0]
    log = OpenLog(settings.for_worker("1", node="front"), node="front", instance=settings)
    until(lambda: list_segments(resting)[0][0] >= newest)
    until(lambda: not list(resting.glob(f"audit-{newest - 2:08d}.*")))
    log.close()
    events = [each["event"] for each in read_records(resting, kinds=("event",))]
    assert events[-3:] == ["start", "segments_removed", "stop"]
    verifier = load_signer(tmp_path / "key.pem", "meshwarden/front").verifier
    assert verify_folder(resting, verifier=verifier).problems == ()
    assert {each["node"] for each in read_records(resting, kinds=("event",))} == {"front/1b"}


def test_two_that_look_send_once(tmp_path: Path, gone: Service) -> None:
    """Of two workers that find the same log at rest one sends it."""
    settings = _settings(tmp_path, gone)
    _write(settings, "3", range(40))
    with serving(gone):
        logs = [
            OpenLog(settings.for_worker(name, node="front"), node="front", instance=settings)
            for name in ("1", "2")
        ]
        gone.wait(lambda: len(gone.events()) >= 40)
        for log in logs:
            log.close()
    found = [int(event["decision_id"], 16) for event in gone.events()]
    assert found == list(range(40))
