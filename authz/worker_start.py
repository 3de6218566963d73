"""How a worker's process is started: this program again, or an Envoy that runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from authz.worker_process import StartWorker


def python_worker(config: Path) -> StartWorker:
    """Return what starts workers that listen with grpcio."""

    def start(name: str, leash: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "authz", "serve", "-c", str(config)]
        command += ["--worker", name, "--leash", str(leash)]
        return subprocess.Popen(command, pass_fds=[leash])

    return start
