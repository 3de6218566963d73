"""A real OPA server on a free port and on a Unix socket, for tests that hold ours against it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.loopback import free_port

MISSING = "no OPA: name its binary in MESHWARDEN_OPA or put `opa` on the PATH"


def opa_binary() -> str | None:
    """Return where OPA is, or None."""
    return os.environ.get("MESHWARDEN_OPA") or shutil.which("opa")


@dataclass(frozen=True, slots=True)
class RealOpa:
    """A running server; what it answers from is put into it by its own REST interface."""

    tcp: str
    unix: str
    loaded: list[Any] = field(default_factory=list)

    def load(self, modules: Sequence[str], data: Mapping[str, Any]) -> None:
        """Let it answer from these modules and data, and nothing else."""
        wanted = [list(modules), dict(data)]
        if self.loaded == wanted:
            return
        with httpx.Client(base_url=self.tcp, timeout=10) as client:
            for old in client.get("/v1/policies").json()["result"]:
                client.delete(f"/v1/policies/{old['id']}").raise_for_status()
            client.put("/v1/data", json=data).raise_for_status()
            for index, module in enumerate(modules):
                client.put(f"/v1/policies/m{index}.rego", content=module).raise_for_status()
        self.loaded[:] = wanted

    def replace(self, module: str) -> None:
        """Put a module in the place of the first one, at once."""
        httpx.put(f"{self.tcp}/v1/policies/m0.rego", content=module).raise_for_status()
        self.loaded[:] = [[module], {}]


@contextmanager
def running_opa(*arguments: str) -> Iterator[RealOpa]:
    """Yield a server; more arguments of `opa run` may follow."""
    binary = opa_binary()
    assert binary is not None, MISSING
    # A path of a Unix socket has room for some 100 bytes, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="opa-") as folder:
        unix = f"unix://{folder}/opa.sock"
        for _ in range(5):
            tcp = f"http://127.0.0.1:{free_port()}"
            command = [binary, "run", "--server", "--log-level", "error", "--addr", tcp]
            command += ["--addr", unix, *arguments]
            with Path(folder, "log").open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
            try:
                if _is_up(process, tcp, Path(folder, "opa.sock")):
                    yield RealOpa(tcp, unix)
                    return
            finally:
                process.kill()
                process.wait(10)
        raise AssertionError(Path(folder, "log").read_text("utf-8"))


def _is_up(process: subprocess.Popen[bytes], tcp: str, unix: Path) -> bool:
    """Wait until it answers; false when it ended, as where another took the port."""
    pause = threading.Event()
    for _ in range(200):
        if process.poll() is not None:
            return False
        try:
            if httpx.get(f"{tcp}/health", timeout=5).is_success and unix.exists():
                return True
        except httpx.TransportError:
            pass
        pause.wait(0.05)
    return False
