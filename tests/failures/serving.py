"""A serving authorizer for tests of failures: asked, looked at and broken from outside.

It is the whole `meshwarden serve`, in this process, with its listeners on real sockets.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import yaml
from envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

from tests.loopback import EAGER, free_port
from tests.serving_here import served_here

_METHOD = "/envoy.service.auth.v3.Authorization/Check"
# How long something may take to come about that another thread or process brings about.
_PATIENCE = 30.0
_PAUSE = 0.02


@dataclass(frozen=True, slots=True)
class Answer:
    """What a check was answered: gRPC code (0 allows), HTTP status (200 allows) and reason."""

    code: int
    status: int
    reason: str
    body: str = ""


class House:
    """One serving authorizer."""

    def __init__(self, folder: Path, channel: grpc.Channel, http: str) -> None:
        """Keep where it is asked."""
        self.folder = folder
        self._http = httpx.Client(base_url=http)
        self._check = channel.unary_unary(_METHOD)

    def close(self) -> None:
        """Close the connections to it."""
        self._http.close()

    def ask(
        self, *, path: str = "/", peer: str = "", certificate: str = "", **headers: str
    ) -> Answer:
        """Put a GET to it; `_` in the name of a header stands for `-`."""
        message = CheckRequest()
        message.attributes.source.principal = peer
        message.attributes.source.certificate = certificate
        http = message.attributes.request.http
        http.method, http.path, http.host = "GET", path, "orders.shop"
        for name, value in headers.items():
            http.header_map.headers.add(key=name.replace("_", "-"), raw_value=value.encode())
        # The first check of a house may wait for a process to start; none waits for a fault.
        raw = self._check(message.SerializeToString(), timeout=10, wait_for_ready=True)
        found = CheckResponse.FromString(raw)
        denied = found.denied_response
        return Answer(
            code=found.status.code,
            status=int(denied.status.code) if found.status.code else 200,
            reason=found.dynamic_metadata["reason"],
            body=denied.body,
        )

    def readyz(self) -> tuple[int, Mapping[str, Any]]:
        """Return the status and the body of `/readyz`."""
        answer = self._http.get("/readyz")
        return answer.status_code, answer.json()

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples, over every label."""
        lines = self._http.get("/metrics").text.splitlines()
        samples = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def records(self) -> list[Mapping[str, Any]]:
        """Return every line of the record that is on disk."""
        files = sorted(self.folder.glob("audit/**/*.jsonl"))
        return [json.loads(line) for each in files for line in each.read_text().splitlines()]


def eventually(look: Callable[[], object], holds: Callable[[Any], bool]) -> None:
    """Look until what is seen holds; otherwise show the last that was seen."""
    pause, until = threading.Event(), time.monotonic() + _PATIENCE
    while not holds(seen := look()):
        if time.monotonic() > until:
            break
        pause.wait(_PAUSE)
    else:
        return
    raise AssertionError(f"it did not come about; last seen: {seen}")


def write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files below a folder."""
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())


def configure(folder: Path, **sections: Any) -> Path:
    """Write meshwarden.yaml with these sections over small ones, and return where it is."""
    whole = {
        "listen": {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"},
        "workload": {"namespace": "shop"},
        "policies": {"paths": ["policies.yaml"], "reloadSeconds": 0.05},
        "audit": {"folder": "audit"},
        **sections,
    }
    path = folder / "meshwarden.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


def refused_start(folder: Path) -> str:
    """Return what a start says that must fail."""
    command = [sys.executable, "-m", "authz.cli", "serve", "-c", str(folder / "meshwarden.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS between the test and the house: `listen.tls`, and what the test shows and believes."""

    settings: Mapping[str, Any]
    credentials: grpc.ChannelCredentials
    server_name: str


@contextmanager
def serving(
    folder: Path, files: Mapping[str, str | bytes], *, tls: Tls | None = None, **sections: Any
) -> Iterator[House]:
    """Serve `sections` of meshwarden.yaml over `files`, and stop in the end."""
    write(folder, files)
    # A path of a Unix socket has room for some 100 bytes, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="mw-") as sockets:
        http = f"127.0.0.1:{free_port()}"
        listen = {"grpc": f"unix://{sockets}/grpc.sock", "http": http, "drainSeconds": 0}
        if tls is not None:
            listen |= {"grpc": f"127.0.0.1:{free_port()}", "tls": dict(tls.settings)}
        path = configure(folder, listen=listen, **sections)
        with served_here(path) as failures, _channel(str(listen["grpc"]), tls) as channel:
            _wait_ready(channel, failures)
            house = House(folder, channel, f"http://{http}")
            try:
                yield house
            finally:
                house.close()


def _wait_ready(channel: grpc.Channel, failures: list[Exception]) -> None:
    is_ready = grpc.channel_ready_future(channel)
    eventually(lambda: failures or is_ready.done(), bool)
    assert failures == []


def _channel(address: str, tls: Tls | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(address, EAGER)
    options = (*EAGER, ("grpc.ssl_target_name_override", tls.server_name))
    return grpc.secure_channel(address, tls.credentials, options)


def policies(*specs: Mapping[str, Any]) -> str:
    """Return resources p0, p1, ... of namespace shop; a spec may bring its `kind`."""
    return yaml.safe_dump_all(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": spec.get("kind", "AuthorizationPolicy"),
            "metadata": {"name": f"p{number}", "namespace": "shop"},
            "spec": {key: value for key, value in spec.items() if key != "kind"},
        }
        for number, spec in enumerate(specs)
    )
