"""Who asks, straight to the server, from the other core.

h2load asks the same again and again; a program of ours (in Go) never does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

CLIENT_CORE: Final = "1"
METHOD: Final = "envoy.service.auth.v3.Authorization/Check"
_FAILED = re.compile(r"requests: (\d+) total, .* (\d+) failed, (\d+) errored")


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a load: requests a second, waits in seconds, the server's CPU time of each."""

    rate: float
    median: float
    p99: float
    failed: int
    cpu: float = 0.0

    @property
    def nanoseconds(self) -> float:
        """Nanoseconds a request."""
        return 1e9 / self.rate


def missing_tool() -> str | None:
    """Return what has to be installed first, or None."""
    if shutil.which("h2load") is None:
        return "h2load (Debian's nghttp2-client)"
    return None if shutil.which("taskset") else "taskset (util-linux)"


def put_under_load(  # noqa: PLR0913 - one load, the rest keyword-only
    port: int,
    body: bytes,
    seconds: float,
    *,
    cpu_seconds: Callable[[], float],
    refused: Callable[[], int] = lambda: 0,
    clients: int = 4,
    streams: int = 10,
) -> Load:
    """Ask over so many connections with so many calls open each, for so long.

    What `refused` counts meanwhile is no answer: h2load sees the status of HTTP alone.

    Raises:
        RuntimeError: nobody answered.
    """
    with TemporaryDirectory() as folder:
        data, log = Path(folder, "body"), Path(folder, "log")
        data.write_bytes(body)
        command = ["taskset", "-c", CLIENT_CORE, "h2load", "-d", str(data), "-t", "1"]
        command += ["-c", str(clients), "-m", str(streams), "-D", f"{round(seconds * 1000)}ms"]
        command += ["--warm-up-time", "300ms", f"--log-file={log}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        command.append(f"http://127.0.0.1:{port}/{METHOD}")
        begun, refused_before = cpu_seconds(), refused()
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        took, no_answers = cpu_seconds() - begun, refused() - refused_before
        waits = sorted(_waits(log)) if log.exists() else []
    counted = _FAILED.search(ran.stdout)
    if counted is None or not waits:
        raise RuntimeError(f"h2load: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    return Load(
        rate=(int(counted[1]) - no_answers) / seconds,
        median=waits[len(waits) // 2],
        p99=waits[int(len(waits) * 0.99)],
        failed=int(counted[2]) + int(counted[3]) + no_answers,
        # The log has the requests of the warm-up too.
        cpu=took / len(waits),
    )


def put_under_varied_load(
    program: str, port: int, messages: Path, seconds: float, *, cpu_seconds: Callable[[], float]
) -> Load:
    """Ask for so long what the file holds, in turn, by the program `meshwarden-closed-load`.

    Raises:
        RuntimeError: nobody answered.
    """
    command = ["taskset", "-c", CLIENT_CORE, program, "-address", f"127.0.0.1:{port}"]
    command += ["-messages", str(messages), "-seconds", str(seconds)]
    begun = cpu_seconds()
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    took = cpu_seconds() - begun
    told = json.loads(ran.stdout) if ran.returncode == 0 else {}
    if not told.get("answered"):
        raise RuntimeError(f"{program}: {ran.stdout[-500:]}{ran.stderr[-500:]}")
    return Load(
        rate=told["answered"] / seconds,
        median=told["median_milliseconds"] / 1e3,
        p99=told["p99_milliseconds"] / 1e3,
        failed=told["failed"],
        cpu=took / told["all"],
    )


def _waits(log: Path) -> list[float]:
    """Return the seconds of each request: start in microseconds, HTTP status, microseconds."""
    rows = (line.split("\t") for line in log.read_text("utf-8").splitlines())
    return [int(row[2]) / 1e6 for row in rows if len(row) > 2 and row[1] == "200"]  # columns
