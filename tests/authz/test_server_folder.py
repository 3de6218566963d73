"""The folder of a server that runs Envoys: held as long as anybody needs it, and never for ever."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from authz.server_folder import remove_left_behind, server_folder

PREFIX = "meshwarden-serve-"
SERVER = """
import subprocess, sys
from authz.server_folder import server_folder
with server_folder() as folder:
    (folder.path / "key").write_text("secret")
    waits = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    envoy = subprocess.Popen(waits, stdin=subprocess.PIPE, pass_fds=[folder.descriptor])
    print(folder.path, envoy.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, where a folder of a minute ago is old."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("authz.server_folder._YOUNG_SECONDS", -1)
    return tmp_path


def _server(temporary: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )


def test_a_killed_servers_folder_goes_with_the_next_start(temporary: Path) -> None:
    """It stays while the server runs, and while its Envoy does; then the next start removes it."""
    with _server(temporary) as server:
        assert server.stdout is not None
        name, envoy = server.stdout.readline().split()
        left = Path(name)
        with server_folder() as own:
            assert {own.path, left} == set(temporary.iterdir())
        # What its input was is closed with the server, so the Envoy ends too; held until then.
        reader = os.pidfd_open(int(envoy))
        server.kill()
    _wait_for(reader)
    with server_folder() as own:
        assert list(temporary.iterdir()) == [own.path]
    assert list(temporary.iterdir()) == []


def _wait_for(process: int) -> None:
    """Wait for the end of a process that is not a child."""
    assert select.select([process], [], [], 30)[0]
    os.close(process)


@pytest.mark.parametrize("what", ["file", "link", "another's name", "young"])
def test_what_is_no_left_folder_stays(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory, what: str
) -> None:
    """Nothing is removed but folders of that name, of which none may be without its lock yet."""
    path, elsewhere = temporary / f"{PREFIX}abc", tmp_path_factory.mktemp("elsewhere")
    match what:
        case "file":
            path.write_text("x")
        case "link":
            (elsewhere / "kept").write_text("x")
            path.symlink_to(elsewhere)
        case "another's name":
            path = temporary / "meshwarden-abc"
            path.mkdir()
        case _:
            path.mkdir()
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr("authz.server_folder._YOUNG_SECONDS", 60)
                remove_left_behind(temporary)
            assert path.exists()
            remove_left_behind(temporary)
            assert not path.exists()
            return
    remove_left_behind(temporary)
    assert os.path.lexists(path)
    assert what != "link" or (elsewhere / "kept").exists()
