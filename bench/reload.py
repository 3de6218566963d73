"""What a reload of 10,000 policies does to the checks that go on meanwhile, and what it takes.

Theory of operation. Every workload has been asked about once. Then every policy is edited at
once, first while nobody asks, then while the server is under the heaviest load that it answers;
all of it on the server's one core, the process that reads the files included. Goals: no failed
request, no denial, the 99th percentile during the reload at most 1.5 times that of the seconds
before; a first load and a reload within 2 s where nobody asks, and 150 MB before and after. What
a load takes where it shares a core that has nothing left is told, and not judged: it is what the
share of a reload makes of it. Told as well: what an edit of a single policy takes, and the CPU time
of a reload where nobody asks, with the looks at the files. `SERVER` is `listen.server`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from rich.console import Console

from bench.check_contest.load import CLIENT_CORE, METHOD, missing_tool
from bench.check_contest.servers import Server, end_in_order, start_meshwarden
from bench.check_contest.workload import Workload
from bench.first_load import measured
from bench.harness import RESULTS

_POLICIES, _WORKLOADS, _FILES = 10_000, 100, 100
_BEFORE_SECONDS, _LONGEST_SECONDS = 8.0, 90.0
# The load must go on until the last of a reload: longer than any takes.
_RELOAD_SECONDS = 60.0
_QUIET_RELOADS = 3
# What an edit puts before the paths of a policy, and where it stands then.
_PATHS = re.compile(r'"paths": \[("/(?:edition|only)-\d+/\*", )?')
_LIMIT, _SECONDS_LIMIT, _MEGABYTES_LIMIT = 1.5, 2.0, 150


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
        settings: dict[str, Any] = {"policies": {"reloadSeconds": 0.2}}
        settings["listen"] = {"server": os.environ.get("SERVER", "grpcio")}
        begun = time.perf_counter()
        with start_meshwarden("Meshwarden", folder, work, settings, files=_FILES) as server:
            start_seconds = time.perf_counter() - begun
            found = _measure(server, folder, work, Path(name))
        first = measured(folder / "policies")
    found |= {"start_seconds": round(start_seconds, 2)}
    found |= {f"first_load_{key}": value for key, value in first.items()}
    found["missed"] = _missed(found)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "reload.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    Console().print_json(json.dumps(found))
    return 1 if found["missed"] else 0


def _missed(found: Mapping[str, Any]) -> list[str]:
    """Return the names of the figures that are beyond their goals."""
    limits = {
        "failed": 0,
        "denied": 0,
        "ratio": _LIMIT,
        "first_load_seconds": _SECONDS_LIMIT,
        "quiet_reload_seconds": _SECONDS_LIMIT,
        "megabytes_before": _MEGABYTES_LIMIT,
        "megabytes_after": _MEGABYTES_LIMIT,
    }
    return [name for name, limit in limits.items() if found[name] > limit]


def _measure(server: Server, folder: Path, work: Workload, scratch: Path) -> dict[str, Any]:
    """Edit every file, at rest and under load, and tell what the load saw of it."""
    body, log = scratch / "body", scratch / "log"
    body.write_bytes(work.body())
    denied = _ask_for_all(server, work)
    before_memory = _answering_megabytes(server)
    single = [_write(server, _one_edited(folder, each)) for each in range(_QUIET_RELOADS)]
    single_memory = _answering_megabytes(server)
    used = server.cpu_seconds()
    quiet = [_write(server, _all_edited(folder, each)) for each in range(_QUIET_RELOADS)]
    used = (server.cpu_seconds() - used) / _QUIET_RELOADS
    texts = _all_edited(folder, _QUIET_RELOADS)
    load = _start_load(server.port, body, log)
    threading.Event().wait(_BEFORE_SECONDS)
    edited = time.time()
    seconds, reader_memory = _write(server, texts)
    loaded = edited + seconds
    load.wait(_LONGEST_SECONDS * 3)
    waits = [
        Wait(int(row[0]) / 1e6, int(row[2]) / 1e6)
        for row in (line.split("\t") for line in log.read_text("utf-8").splitlines())
        if row[1] == "200"
    ]
    failed = sum(line.split("\t")[1] != "200" for line in log.read_text("utf-8").splitlines())
    before = _p99(waits, edited - _BEFORE_SECONDS + 2, edited)
    during = _p99(waits, edited, loaded)
    return {
        "requests": len(waits),
        "failed": failed,
        "denied": _denied(server) - denied,
        "p99_before_milliseconds": round(before * 1e3, 2),
        "p99_during_milliseconds": round(during * 1e3, 2),
        "ratio": round(during / before, 2),
        "limit": _LIMIT,
        "loaded_reload_seconds": round(seconds, 2),
        "quiet_reload_seconds": round(min(each for each, _ in quiet), 2),
        "quiet_reload_cpu_seconds": round(used, 2),
        "quiet_single_edit_seconds": round(min(each for each, _ in single), 2),
        "megabytes_before": before_memory,
        "megabytes_after_single_edits": single_memory,
        "megabytes_after": _answering_megabytes(server),
        "megabytes_of_reader": reader_memory,
        "seconds_limit": _SECONDS_LIMIT,
        "megabytes_limit": _MEGABYTES_LIMIT,
    }


def _ask_for_all(server: Server, work: Workload) -> int:
    """Ask about every workload once; return how many were denied, as most are for this caller."""
    message = CheckRequest.FromString(work.message())
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = channel.unary_unary(f"/{METHOD}")
        for number in range(_WORKLOADS):
            message.attributes.destination.labels["app"] = f"app-{number}"
            ask(message.SerializeToString(), timeout=10)
    return _denied(server)


def _denied(server: Server) -> int:
    rows = _get(server, "/metrics").splitlines()
    denied = [row for row in rows if row.startswith('meshwarden_decisions_total{effect="deny"')]
    return sum(int(float(row.rpartition(" ")[2])) for row in denied)


def _all_edited(folder: Path, edition: int) -> Mapping[Path, str]:
    """Return the files with every policy edited."""
    return {
        path: _PATHS.sub(f'"paths": ["/edition-{edition}/*", ', path.read_text("utf-8"))
        for path in (folder / "policies").iterdir()
    }


def _one_edited(folder: Path, edition: int) -> Mapping[Path, str]:
    """Return one file with one policy edited."""
    path = min((folder / "policies").iterdir())
    edited = f'"paths": ["/only-{edition}/*", '
    return {path: _PATHS.sub(edited, path.read_text("utf-8"), count=1)}


def _write(server: Server, texts: Mapping[Path, str]) -> tuple[float, int]:
    """Write files; return the seconds until they serve, and the reader's memory in MB."""
    revision, begun, reader = _revision(server), time.monotonic(), [0]
    for path, text in texts.items():
        path.write_text(text, "utf-8")

    def is_served() -> bool:
        reader.append(_reader_megabytes(server))
        return _revision(server) != revision

    _wait_for(is_served)
    return time.monotonic() - begun, max(reader)


def _answering_megabytes(server: Server) -> int:
    """Return the memory of the process that answers: the largest of those there are."""
    own = Path("/proc", str(server.process.pid))
    return max(map(_megabytes, (own, *_descendants(own))))


def _megabytes(folder: Path) -> int:
    try:
        rows = (folder / "status").read_text("utf-8").splitlines()
    except OSError:
        return 0  # it ended meanwhile
    told = [row for row in rows if row.startswith("VmRSS")]
    return int(told[0].split()[1]) // 1024 if told else 0


def _reader_megabytes(server: Server) -> int:
    """Return the memory of the process that reads for the server, 0 where there is none."""
    for folder in _descendants(Path("/proc", str(server.process.pid))):
        try:
            if b"authz.read_policies" in (folder / "cmdline").read_bytes():
                return _megabytes(folder)
        except OSError:
            continue  # it ended meanwhile
    return 0


def _descendants(folder: Path) -> Iterator[Path]:
    """Yield the folder below /proc of each process that one has started, and of those theirs.

    WHY not all processes: whoever looks through them takes a core that is being measured.
    """
    for thread in folder.glob("task/*/children"):
        try:
            children = thread.read_text("utf-8").split()
        except OSError:
            continue  # it ended meanwhile
        for child in children:
            yield Path("/proc", child)
            yield from _descendants(Path("/proc", child))


def _start_load(port: int, body: Path, log: Path) -> subprocess.Popen[bytes]:
    command = ["taskset", "-c", CLIENT_CORE, "h2load", "-d", str(body), "-t", "1", "-c", "4"]
    command += ["-m", "10", "-D", f"{_BEFORE_SECONDS + _RELOAD_SECONDS:g}", f"--log-file={log}"]
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
    # WHY not httpx: it reads the system's authorities for each client, 30 ms of a core.
    connection = HTTPConnection("127.0.0.1", server.http_port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def _wait_for(holds: Callable[[], bool]) -> None:
    pause, until = threading.Event(), time.monotonic() + _LONGEST_SECONDS
    while not holds():
        if time.monotonic() > until:
            raise RuntimeError("the new policies do not come to serve")
        pause.wait(0.05)


if __name__ == "__main__":
    sys.exit(main())
