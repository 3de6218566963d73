"""The ledger's log is brought in beside the commits, and nothing committed is lost by it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from ca.checkpoints import Checkpoints
from ca.store import Store
from ca.store_schema import COUNTER

ROWS = 400


def _insert(store: Store, name: str) -> None:
    with store.write() as connection:
        connection.execute(insert(COUNTER).values(name=name, value=0))


def _count(path: Path) -> int:
    store = Store(f"sqlite:///{path}")
    with store.read() as connection:
        found = int(connection.scalar(select(func.count()).select_from(COUNTER)) or 0)
    store.close()
    return found


@pytest.mark.parametrize("is_restart", [False, True])
def test_what_is_committed_meanwhile_stays(tmp_path, is_restart):
    """Commits go on while the log is brought in, and every one of them is there afterwards."""
    path = tmp_path / "ledger.db"
    store = Store(f"sqlite:///{path}")
    before = _count(path)
    writing = threading.Thread(target=lambda: [_insert(store, str(n)) for n in range(ROWS)])
    writing.start()
    while writing.is_alive():
        store.checkpoint(is_restart=is_restart)
    writing.join()
    store.close()
    assert _count(path) == before + ROWS


def test_the_log_begins_anew(tmp_path):
    """Once all of it is in, the next commit begins the log anew: it grows no further."""
    store = Store(f"sqlite:///{tmp_path / 'ledger.db'}")
    for number in range(50):
        _insert(store, f"first-{number}")
    assert store.checkpoint(is_restart=True) > 50
    _insert(store, "second")
    assert store.checkpoint() < 10
    store.close()


def test_the_thread_does_it_by_itself(tmp_path):
    """While the context is entered the database takes up what is committed; no thread stays."""
    path = tmp_path / "ledger.db"
    store = Store(f"sqlite:///{path}")
    with Checkpoints(store):
        at = path.stat().st_mtime_ns
        _insert(store, "one")
        end, pause = time.monotonic() + 30, threading.Event()
        while path.stat().st_mtime_ns == at:
            assert time.monotonic() < end
            pause.wait(0.05)
    assert not any(thread.name == "ca-checkpoints" for thread in threading.enumerate())
    store.close()
