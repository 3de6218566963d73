"""What a reload of 10,000 policies does to the checks that go on meanwhile, and what it takes.

The server is under the heaviest load that it answers, over as many workloads as there are
labels, while every file is edited at once. Goals: no failed request, no denial, and the 99th
percentile during the reload at most 1.5 times that of the seconds before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from rich.console import Console

from bench.check_contest.load import CLIENT_CORE, METHOD, missing_tool
from bench.check_contest.servers import Server, end_in_order, resident_megabytes, start_meshwarden
from bench.check_contest.workload import Workload
from bench.harness import RESULTS

_POLICIES, _WORKLOADS, _FILES = 10_000, 100, 100
_BEFORE_SECONDS, _LONGEST_SECONDS = 8.0, 60.0
_LIMIT = 1.5


@dataclass(frozen=True, slots=True)
class Wait:
    """One answered request: when it was sent, in epoch seconds, and how long it took."""

    at: float
    seconds: float


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed or a tool is."""
    missing = missing_tool()
    if missing is not None:
        print(f"bench reload needs {missing}", file=sys.stderr)
        return 1
    end_in_order()
    work = Workload(policies=_POLICIES, workloads=_WORKLOADS)
    with TemporaryDirectory() as name:
        folder = Path(name, "server")
        begun = time.perf_counter()
        with start_meshwarden(
            "Meshwarden", folder, work, {"policies": {"reloadSeconds": 0.2}}, files=_FILES
        ) as server:
            start_seconds = time.perf_counter() - begun
            found = _measure(server, folder, work, Path(name))
    found["start_seconds"] = round(start_seconds, 2)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "reload.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    Console().print_json(json.dumps(found))
    return 0 if found["met"] else 1


def _measure(server: Server, folder: Path, work: Workload, scratch: Path) -> dict[str, object]:
    """Edit every file under load, and tell what the load saw of it."""
    body, log = scratch / "body", scratch / "log"
    body.write_bytes(work.body())
    before_memory = resident_megabytes(server)
    load = _start_load(server.port, body, log)
    threading.Event().wait(_BEFORE_SECONDS)
    revision = _revision(server)
    edited = time.time()
    for path in (folder / "policies").iterdir():
        path.write_text(path.read_text("utf-8") + "# edited\n", "utf-8")
    _wait_for(lambda: _revision(server) != revision)
    loaded = time.time()
    load.wait(_LONGEST_SECONDS * 3)
    waits = [
        Wait(int(row[0]) / 1e6, int(row[2]) / 1e6)
        for row in (line.split("\t") for line in log.read_text("utf-8").splitlines())
        if row[1] == "200"
    ]
    failed = sum(line.split("\t")[1] != "200" for line in log.read_text("utf-8").splitlines())
    before = _p99(waits, edited - _BEFORE_SECONDS + 2, edited)
    during = _p99(waits, edited, loaded)
    denied = 'effect="deny"' in _get(server, "/metrics")
    return {
        "requests": len(waits),
        "failed": failed,
        "denied": denied,
        "p99_before_milliseconds": round(before * 1e3, 2),
        "p99_during_milliseconds": round(during * 1e3, 2),
        "ratio": round(during / before, 2),
        "limit": _LIMIT,
        "seconds_until_it_served": round(loaded - edited, 2),
        "megabytes_before": before_memory,
        "megabytes_after": resident_megabytes(server),
        "met": not failed and not denied and during / before <= _LIMIT,
    }


def _start_load(port: int, body: Path, log: Path) -> subprocess.Popen[bytes]:
    command = ["taskset", "-c", CLIENT_CORE, "h2load", "-d", str(body), "-t", "1", "-c", "4"]
    command += ["-m", "10", "-D", f"{_BEFORE_SECONDS + 22:g}", f"--log-file={log}"]
    command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    command.append(f"http://127.0.0.1:{port}/{METHOD}")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _p99(waits: list[Wait], since: float, until: float) -> float:
    """Return the percentile of the requests that were under way in a span."""
    own = sorted(
        each.seconds for each in waits if each.at < until and each.at + each.seconds > since
    )
    return own[int(len(own) * 0.99)]


def _revision(server: Server) -> str:
    return str(json.loads(_get(server, "/readyz"))["revision"])


def _get(server: Server, path: str) -> str:
    return httpx.get(f"http://127.0.0.1:{server.http_port}{path}", timeout=10).text


def _wait_for(holds: Callable[[], bool]) -> None:
    pause, until = threading.Event(), time.monotonic() + _LONGEST_SECONDS
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError("the new policies do not come to serve")
        pause.wait(0.1)


if __name__ == "__main__":
    sys.exit(main())
