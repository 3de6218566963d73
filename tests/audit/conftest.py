"""Records, logs and writers for the audit tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from audit_records import make_record
from kept_logs import NOW, ORIGIN

from audit.open_log import OpenLog
from audit.record import AuditRecord
from audit.settings import AuditSettings
from audit.signed_note import NoteVerifier, load_signer, new_private_key
from audit.writer import AuditWriter


@pytest.fixture
def record() -> Callable[..., AuditRecord]:
    """The maker of records."""
    return make_record


@pytest.fixture
def open_writer(tmp_path: Path) -> Callable[..., AuditWriter]:
    """A function that opens a writer on `tmp_path/log`; every one is closed afterwards."""
    opened: list[AuditWriter] = []

    def open_one(**changes: Any) -> AuditWriter:
        options = {"folder": tmp_path / "log", "retry_milliseconds": 20} | changes
        writer = AuditWriter(AuditSettings(**options), node="test", clock=lambda: 1_700_000_000.0)
        opened.append(writer)
        return writer

    yield open_one
    for writer in opened:
        if writer.health() != "the audit writer is closed":
            writer.close(timeout_seconds=0.5)


@pytest.fixture
def log(tmp_path: Path, open_writer: Callable[..., AuditWriter]) -> Path:
    """The folder of a closed log of several small segments and 40 decisions."""
    writer = open_writer(max_segment_bytes=8192)
    for number in range(40):
        writer.offer(make_record(number))
    writer.close()
    return tmp_path / "log"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The file of a key for checkpoints."""
    path = tmp_path / "key.pem"
    path.write_bytes(new_private_key())
    return path


@pytest.fixture
def verifier(key: Path) -> NoteVerifier:
    """What checks its signatures."""
    return load_signer(key, ORIGIN).verifier


@pytest.fixture
def clock() -> list[float]:
    """The time, which tests set."""
    return [NOW]


@pytest.fixture
def open_log(tmp_path: Path, key: Path, clock: list[float]) -> Iterator[Callable[..., OpenLog]]:
    """A function that opens a signed log of small segments; closed afterwards."""
    opened: list[OpenLog] = []

    def open_one(**changes: Any) -> OpenLog:
        options = {
            "folder": tmp_path / "log",
            "max_segment_bytes": 4096,
            "checkpoint_key_file": key,
            "checkpoint_origin": ORIGIN,
            "retry_milliseconds": 20,
        } | changes
        opened.append(OpenLog(AuditSettings(**options), node="front", clock=lambda: clock[0]))
        return opened[-1]

    yield open_one
    for log in opened:
        if log.writer.health() != "the audit writer is closed":
            log.close()
