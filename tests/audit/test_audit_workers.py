"""Several workers of one instance: a chain each, read as one record."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from audit.commands import EXIT_BROKEN, EXIT_INTACT, run_prove, run_verify
from audit.errors import AuditReadError
from audit.logs import find_all_logs, find_logs
from audit.query import Query
from audit.query_engine import LogQueries
from audit.query_tail import Damaged, follow
from audit.reader import count_lines, read_records
from audit.settings import AuditSettings
from audit.signed_note import load_signer, new_private_key
from audit.writer import AuditWriter


def _write(settings: AuditSettings, numbers: range, record) -> None:
    writer = AuditWriter(settings, node=settings.node_name, clock=lambda: 1_700_000_000.0)
    for number in numbers:
        writer.offer(record(number))
    writer.close()


@pytest.fixture
def workers(tmp_path: Path, record) -> Path:
    """The folder of three workers: decision N was made by worker N modulo 3, in signed logs."""
    (tmp_path / "key.pem").write_bytes(new_private_key())
    settings = AuditSettings(
        folder=tmp_path / "log", checkpoint_key_file=tmp_path / "key.pem", max_segment_bytes=4096
    )
    for worker in range(3):
        own = settings.for_worker(str(worker), node="front")
        _write(own, range(worker, 30, 3), record)
    return tmp_path / "log"


def _numbers(documents) -> list[int]:
    return [int(each["decision_id"], 16) for each in documents]


def test_each_worker_has_a_log_of_its_own(workers: Path) -> None:
    """Folder, chain, name and origin are a worker's own, and each log is intact on its own."""
    assert [log.name for log in find_logs(workers)] == ["worker-0", "worker-1", "worker-2"]
    assert {each["node"] for each in read_records(workers / "worker-1")} == {"front/1"}
    notes = sorted((workers / "worker-1").glob("*.checkpoint"))
    assert notes[0].read_text().startswith("meshwarden/front/1\n")
    out = io.StringIO()
    assert run_verify(workers, out) == EXIT_INTACT
    assert out.getvalue().count(": intact") == 3


def test_record_is_read_in_the_order_of_time(workers: Path) -> None:
    """Reading, asking and watching give the decisions of all workers as they were made."""
    assert _numbers(read_records(workers)) == list(range(30))
    with LogQueries([workers]) as queries:
        assert _numbers(queries.records(Query())) == list(range(30))
    seen = list(follow(workers, Query(), newest=6, wait=lambda: False))
    assert not any(isinstance(each, Damaged) for each in seen)
    assert _numbers(seen) == list(range(24, 30))
    lines = sum(count_lines(log) for log in find_logs(workers))
    assert count_lines(workers) == lines > 30


@pytest.mark.parametrize("origin", ["", "example.org/log"])
def test_key_of_the_instance_holds_for_its_workers(
    workers: Path, tmp_path: Path, record, origin: str
) -> None:
    """One verifier key checks every worker's signatures; another's checks none."""
    log = workers
    if origin:
        log = tmp_path / "named"
        settings = AuditSettings(
            folder=log, checkpoint_key_file=tmp_path / "key.pem", checkpoint_origin=origin
        )
        for worker in range(2):
            _write(settings.for_worker(str(worker), node="front"), range(5), record)
    verifier = load_signer(tmp_path / "key.pem", origin or "meshwarden/front").verifier
    out = io.StringIO()
    assert run_verify(log, out, verifier=verifier) == EXIT_INTACT
    assert "signatures" not in out.getvalue()
    other = load_signer(tmp_path / "key.pem", "meshwarden/other").verifier
    assert run_verify(log, io.StringIO(), verifier=other) == EXIT_BROKEN


def test_break_in_one_worker_is_found(workers: Path) -> None:
    """A changed line of one worker's log breaks the record, and the others stay intact."""
    segment = workers / "worker-2" / "audit-00000001.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b'"deny"', b'"allow"', 1))
    out = io.StringIO()
    assert run_verify(workers, out) == EXIT_BROKEN
    assert out.getvalue().count(": intact") == 2


def test_decision_of_any_worker_can_be_proven(workers: Path) -> None:
    """The proof is that of the worker's own log."""
    entry, proof = run_prove(workers, f"{4:032x}")
    assert json.loads(entry)["node"] == "front/1"
    assert "meshwarden/front/1" in proof
    with pytest.raises(AuditReadError, match="holds no decision"):
        run_prove(workers, f"{99:032x}")


def test_worker_that_begins_later_is_watched(workers: Path, tmp_path: Path, record) -> None:
    """A log that begins while it is watched is followed from its first line."""
    settings = AuditSettings(folder=tmp_path / "log").for_worker("9", node="front")
    rounds = iter([True, False])

    def wait() -> bool:
        if not next(rounds):
            return False
        _write(settings, range(40, 43), record)
        return True

    assert _numbers(follow(workers, Query(), newest=0, wait=wait)) == [40, 41, 42]


def test_one_process_before_and_workers_after(workers: Path, tmp_path: Path, record) -> None:
    """A log that stood in the folder before there were workers is read with theirs, once."""
    _write(AuditSettings(folder=tmp_path / "log"), range(30, 33), record)
    assert _numbers(read_records(workers)) == list(range(33))
    assert len(find_all_logs([workers, workers])) == 4


@pytest.mark.parametrize("worker", ["", "../x", "a/b", "ü"])
def test_name_of_a_worker_is_plain(worker: str) -> None:
    """A name that could lead out of the folder is refused."""
    with pytest.raises(ValueError, match="no name for a worker"):
        AuditSettings().for_worker(worker, node="n")
