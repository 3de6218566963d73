"""Columns are made beside a server, and nothing is left running when it ends, however it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from audit.chain import ChainState, link_line, segment_name
from authz.indexing import indexing
from tests.waiting import until

_SERVER = """
import subprocess, sys
from pathlib import Path
from authz.indexing import indexing
with indexing(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


def _write_segment(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    line, _ = link_line(ChainState(), {"kind": "segment", "segment": 1, "log_id": "x"})
    (folder / segment_name(1)).write_bytes(line)


def _runs(folder: Path) -> bool:
    """Whether an indexing of the folder runs anywhere on the machine."""
    wanted = str(folder).encode()
    for found in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"--leashed" in (text := found.read_bytes()) and wanted in text:
                return True
        except OSError:
            continue
    return False


def test_columns_come_while_a_server_runs(tmp_path: Path) -> None:
    """A segment that is sealed while the server runs gets its columns; then nothing runs."""
    folder = tmp_path / "log"
    with indexing(folder):
        _write_segment(folder)
        until(lambda: bool(list(folder.glob("columns/*.parquet"))))
    assert not _runs(folder)


def test_nothing_runs_where_it_is_not_wanted(tmp_path: Path) -> None:
    """Without the setting no process is started."""
    with indexing(None):
        assert not _runs(tmp_path / "log")


def test_a_killed_server_leaves_nothing_behind(tmp_path: Path) -> None:
    """When the server is killed, what it had started ends by itself."""
    folder = tmp_path / "log"
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        server.stdout.readline()
        until(lambda: _runs(folder))
    finally:
        server.kill()
        server.communicate()
    until(lambda: not _runs(folder))
