"""A `meshwarden serve` with `listen.server: envoy`, run as it is run."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import httpx
from checking import make_message
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from raw_http2 import CHECK

from tests.loopback import free_port
from tests.waiting import until

POLICY = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: shop}
spec: {rules: [{}]}
"""
MESSAGE = make_message().SerializeToString()
FRAMED = b"\0" + len(MESSAGE).to_bytes(4, "big") + MESSAGE


class Served:
    """A running `meshwarden serve` with an Envoy as its listener."""

    def __init__(
        self,
        folder: Path,
        grpc_listen: str,
        program: Sequence[str] = (sys.executable, "-m", "authz"),
        **listen: Any,
    ) -> None:
        self.folder, self.grpc, self.http = folder, grpc_listen, free_port()
        (folder / "policy.yaml").write_text(POLICY)
        configuration = {
            "listen": {
                "grpc": grpc_listen,
                "http": f"127.0.0.1:{self.http}",
                "server": "envoy",
                **listen,
            },
            "policies": {"paths": [str(folder / "policy.yaml")]},
            "workload": {"namespace": "shop"},
            "audit": {"folder": str(folder / "audit")},
        }
        (folder / "serve.json").write_text(json.dumps(configuration))
        command = [*program, "serve", "-c", str(folder / "serve.json")]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)

    @property
    def log(self) -> str:
        """What was written to standard error."""
        return (self.folder / "log").read_text()

    def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.http}/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def envoy(self) -> int:
        """Return the id of Envoy's process, 0 where there is none."""
        pid = self.process.pid
        names = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(names[0]) if names else 0

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, as long as a busy machine may need."""
        until(holds, told=lambda: self.log[-3000:])

    def ask(self) -> int | str:
        """Return the status of a check's answer, or of the error."""
        with grpc.insecure_channel(self.grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                answer = channel.unary_unary(CHECK)(MESSAGE, timeout=10)
            except grpc.RpcError as exc:
                return str(exc.code().name)
        return CheckResponse.FromString(answer).status.code


@contextlib.contextmanager
def serving(folder: Path, grpc_listen: str = "", **listen: Any) -> Iterator[Served]:
    """A server that answers, ended in the end."""
    served = Served(folder, grpc_listen or f"127.0.0.1:{free_port()}", **listen)
    try:
        served.wait_for(lambda: served.is_ready() or served.process.poll() is not None)
        assert served.process.poll() is None, served.log
        yield served
    finally:
        if served.process.poll() is None:
            served.process.terminate()
        served.process.wait(60)
