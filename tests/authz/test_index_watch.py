"""Columns are made by processes that come and go; what cannot be made is told once, tried again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audit.chain import ChainState, link_line, segment_name
from authz import index_watch


def write_segments(folder: Path, *numbers: int) -> None:
    """Write segments of one line each, and nobody writes more."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        line, _ = link_line(ChainState(), {"kind": "segment", "segment": number, "log_id": "x"})
        (folder / segment_name(number)).write_bytes(line)


def columns(folder: Path) -> set[str]:
    """Return the names of the segments that have columns."""
    return {each.name.partition(".")[0] for each in folder.glob("columns/*.parquet")}


@contextmanager
def following(*logs: Path) -> Iterator[None]:
    """Follow logs in a thread while the block lasts."""
    stop = threading.Event()
    thread = threading.Thread(target=index_watch.follow, args=(logs, None, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_for_columns(folder: Path, numbers: range) -> None:
    """Wait until the segments of these numbers have columns, and no others have."""
    expected = {segment_name(each).partition(".")[0] for each in numbers}
    pause = threading.Event()
    for _ in range(1200):
        if columns(folder) == expected:
            return
        pause.wait(0.05)
    raise AssertionError(columns(folder))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often."""
    monkeypatch.setattr(index_watch, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(index_watch, "_AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(index_watch, "_AT_ONCE", 2)


def test_all_segments_come_a_few_at_a_time(tmp_path: Path) -> None:
    """More than one process makes get theirs; those of a segment that is gone go."""
    write_segments(tmp_path, *range(1, 6))

    with following(tmp_path):
        wait_for_columns(tmp_path, range(1, 6))
        (tmp_path / segment_name(1)).unlink()
        wait_for_columns(tmp_path, range(2, 6))


def test_what_cannot_be_read_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried again and again, said once, and holds nobody up when it can be read."""
    write_segments(tmp_path, 1)
    (tmp_path / segment_name(2)).symlink_to(tmp_path / "nowhere")
    tried, make = threading.Semaphore(0), index_watch._Watch._make

    def counted(watch: index_watch._Watch, segments: list[Path]) -> bool:
        tried.release()
        return make(watch, segments)

    monkeypatch.setattr(index_watch._Watch, "_make", counted)
    with following(tmp_path):
        for _ in range(3):
            assert tried.acquire(timeout=60)
        (tmp_path / segment_name(2)).unlink()
        write_segments(tmp_path, 2)
        wait_for_columns(tmp_path, range(1, 3))

    said = capsys.readouterr().err.splitlines()
    assert 1 == len(said), said
    assert said[0].startswith("waiting: ")
    assert os.fspath(tmp_path) in said[0]
