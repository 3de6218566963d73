"""Records, logs and writers for the audit tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from audit_records import make_record

from audit.record import AuditRecord
from audit.settings import AuditSettings
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
