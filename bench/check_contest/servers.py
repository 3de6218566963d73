"""Who answers: each contestant a process of its own, on one core, stopped while others run.

Theory of operation. All contestants of a contest are started, and only the one whose turn
it is may run: the others are stopped by a signal, so that nothing of theirs takes the core.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx

from bench.check_contest.processes import cpu_seconds
from bench.check_contest.workload import Workload

SERVER_CORE: Final = "0"
_START_SECONDS: Final = 60.0
_REFUSED: Final = "meshwarden_checks_refused"


class Server:
    """A running contestant."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        port: int,
        http_port: int = 0,
        core: str = SERVER_CORE,
    ) -> None:
        """Start it on its core, its output in the folder, and wait until it listens."""
        self.name = name
        self.port = port
        self.http_port = http_port
        self._output = folder / "output.log"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                ["taskset", "-c", core, *command],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait_until_it_listens()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it with all that it started."""
        self.end()

    def end(self) -> None:
        """Have it end with all that it started; nothing more where it has."""
        if self.process.poll() is not None:
            return
        self.resume()
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has taken so far, with all that it started."""
        return cpu_seconds(self.process.pid)

    def refused(self) -> int:
        """Return how many checks it says that it refused so far; 0 where it tells nothing."""
        if not self.http_port:
            return 0
        text = httpx.get(f"http://127.0.0.1:{self.http_port}/metrics", timeout=10).text
        rows = (line.split() for line in text.splitlines() if line.startswith(_REFUSED))
        return sum(round(float(row[-1])) for row in rows)

    def pause(self) -> None:
        """Take nothing of the core until it is resumed."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def _wait_until_it_listens(self) -> None:
        pause, waited = threading.Event(), 0.0
        while waited < _START_SECONDS:
            if self.process.poll() is not None:
                said = self._output.read_text("utf-8", errors="replace")[-500:]
                code = self.process.returncode
                raise RuntimeError(f"`{self.name}` ended with {code}: {said}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                pause.wait(0.05)
                waited += 0.05
        raise RuntimeError(f"`{self.name}` does not listen")


def end_in_order() -> None:
    """Have a signal to end leave by the way of an error, so that no contestant is left behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_noop(folder: Path, threads: int = 2) -> Server:
    """Start the limit, with the number of threads that serves it best."""
    folder.mkdir(parents=True)
    port = free_port()
    command = [sys.executable, "-m", "bench.check_contest.noop", str(port), str(threads)]
    return Server("no-op grpc.server", command, folder, port)


def start_meshwarden(
    name: str,
    folder: Path,
    work: Workload,
    settings: Mapping[str, Any] | None = None,
    files: int = 1,
) -> Server:
    """Start `meshwarden serve` on the workload's policies, spread over so many files."""
    (folder / "policies").mkdir(parents=True)
    documents = work.istio()
    for number in range(files):
        text = "---\n".join(documents[number::files])
        (folder / "policies" / f"policies-{number:03}.yaml").write_text(text, "utf-8")
    configuration: dict[str, Any] = {
        "policies": {"paths": [str(folder / "policies")], "reloadSeconds": 60},
        "audit": {"folder": str(folder / "audit")},
    }
    if work.custom:
        (folder / "policy.rego").write_text(_CUSTOM_REGO, "utf-8")
        rego = {"paths": [str(folder / "policy.rego")]}
        configuration["providers"] = [{"name": "rego", "rego": rego}]
    for key, value in (settings or {}).items():
        configuration[key] = {**configuration.get(key, {}), **value}
    return start_serve(name, folder, configuration)


def start_serve(name: str, folder: Path, configuration: Mapping[str, Any]) -> Server:
    """Start `meshwarden serve` on free ports, configured by a file in the folder."""
    port, http_port = free_port(), free_port()
    listen = {"grpc": f"127.0.0.1:{port}", "http": f"127.0.0.1:{http_port}"}
    told = {**configuration, "listen": {**listen, **configuration.get("listen", {})}}
    (folder / "serve.json").write_text(json.dumps(told), "utf-8")
    program = Path(sys.executable).with_name("meshwarden")
    command = [str(program), "serve", "-c", str(folder / "serve.json")]
    return Server(name, command, folder, port, http_port)


_CUSTOM_REGO = """package envoy.authz

default allow := false

allow if startswith(input.attributes.request.http.path, "/api/")
"""


def start_opa(folder: Path, work: Workload) -> Server | None:
    """Start opa-envoy-plugin or, without it, what stands in for it; None without either."""
    folder.mkdir(parents=True)
    work.write_bundle(folder / "bundle.tar.gz")
    port = free_port()
    configuration = {
        "bundles": {"bench": {"resource": f"file://{folder}/bundle.tar.gz"}},
        "decision_logs": {"console": True},
        "caching": {
            "inter_query_builtin_value_cache": {"named": {"io_jwt": {"max_num_entries": 10_000}}}
        },
        "plugins": {
            "envoy_ext_authz_grpc": {"addr": f"127.0.0.1:{port}", "path": "envoy/authz/allow"}
        },
    }
    plugin, stand_in = find_program("opa-envoy-plugin"), find_program("opa-envoy-standin")
    if plugin is None:
        del configuration["plugins"]
    path = folder / "opa.json"
    path.write_text(json.dumps(configuration), "utf-8")
    if plugin is not None:
        command = [plugin, "run", "--server", "--addr", f"127.0.0.1:{free_port()}"]
        command += ["--config-file", str(path)]
        return Server("opa-envoy-plugin", command, folder, port)
    if stand_in is None:
        return None
    command = [stand_in, "-listen", f"127.0.0.1:{port}", "-config", str(path)]
    return Server("OPA behind grpc-go", command, folder, port)


def find_program(program: str) -> str | None:
    """Return the program from where the interop stage builds, a folder of choice, or the PATH."""
    built = Path(sys.prefix) / "interop"
    chosen = os.environ.get("MESHWARDEN_BENCH_TOOLS", "")
    return shutil.which(program, path=f"{built}:{chosen}:{os.environ.get('PATH', '')}")
