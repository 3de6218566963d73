"""A CA that was killed is started again at once: nothing that it left is in the way, or stays."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from pathlib import Path

import yaml

from tests.loopback import free_port
from tests.waiting import until


def _serving(folder: Path, number: int) -> subprocess.Popen[bytes]:
    """Start the CA of a folder, and return it when it serves."""
    command = [sys.executable, "-m", "authz", "ca", "serve", "-c", str(folder / "ca.yaml")]
    log = folder / f"log-{number}"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        until(lambda: "ca_ready" in log.read_text(), seconds=60, told=log.read_text)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process


def _left(folder: Path) -> set[str]:
    """Return the sockets and unfinished files of a folder."""
    found = (path for path in folder.rglob("*") if not path.is_symlink())
    return {
        str(path.relative_to(folder))
        for path in found
        if stat.S_ISSOCK(path.stat().st_mode) or path.name.startswith(".tmp-")
    }


def test_killed_and_started_at_once(tmp_path):
    """Twice killed with workers, every kind of listener, and files half written: it serves."""
    settings = {
        "stateFolder": "state",
        "trustDomain": "example.org",
        "workloads": [{"spiffeId": "spiffe://example.org/cart", "socket": "cart.sock"}],
        "workloadApi": {"socket": "api.sock"},
        "signing": {
            "istioListen": f"127.0.0.1:{free_port()}",
            "restListen": f"127.0.0.1:{free_port()}",
            "workers": 2,
        },
        "httpListen": f"127.0.0.1:{free_port()}",
    }
    (tmp_path / "ca.yaml").write_text(yaml.safe_dump(settings))
    sockets = {"cart.sock", "api.sock", "state/control.sock"}
    for number in range(2):
        process = _serving(tmp_path, number)
        process.kill()
        process.wait()
        assert _left(tmp_path) == sockets
        for place in ("state", "state/keys", "state/published"):
            name = {"state": "authority.json", "state/keys": "root-1.pem"}.get(place, "crl.pem")
            (tmp_path / place / f".tmp-4242-{name}").write_bytes(b"half")
    process = _serving(tmp_path, 2)
    assert _left(tmp_path) == sockets
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert _left(tmp_path) == set()
