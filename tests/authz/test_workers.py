"""Several workers behind one port: replaced, killed and drained with nobody turned away."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from checking import make_message
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from authz.worker_metrics import merge_metrics
from authz.workers import readiness_of
from tests.loopback import free_port
from tests.waiting import until

POLICY = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: shop}
spec: {rules: [{}]}
"""
# Of a server that stops, gRPC cancels a call that has come and that no thread has yet.
RETRY = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["CANCELLED", "UNAVAILABLE"],
                },
            }
        ]
    }
)
# Spec: RFC 9113 section 3.4: a client begins with this, and with SETTINGS.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
CHECK = "/envoy.service.auth.v3.Authorization/Check"


class Served:
    """A running `meshwarden serve --workers 2`."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        self.grpc, self.http = free_port(), free_port()
        (folder / "policy.yaml").write_text(POLICY)
        configuration: dict[str, dict[str, Any]] = {
            "listen": {"grpc": f"127.0.0.1:{self.grpc}", "http": f"127.0.0.1:{self.http}"},
            "policies": {"paths": [str(folder / "policy.yaml")]},
            "workload": {"namespace": "shop"},
            "audit": {"folder": str(folder / "audit")},
        }
        configuration["listen"]["server"] = server
        (folder / "serve.json").write_text(json.dumps(configuration))
        command = [sys.executable, "-m", "authz", "serve", "-c", str(folder / "serve.json")]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen([*command, "--workers", "2"], stderr=log)

    def ready(self) -> dict[str, Any]:
        """Return what `/readyz` says; nothing while nobody answers."""
        try:
            found: dict[str, Any] = httpx.get(f"http://127.0.0.1:{self.http}/readyz").json()
        except httpx.HTTPError:
            return {}
        return found

    def workers(self) -> set[str]:
        """Return the names of the workers that are ready."""
        told = self.ready().get("workers", {})
        return {name for name, each in told.items() if each is not None and each["ready"]}

    def children(self) -> list[int]:
        """Return the ids of the worker processes."""
        pid = self.process.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def wait_for(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, as long as a busy machine may need."""
        until(holds, told=lambda: (self.folder / "log").read_text()[-3000:])


@pytest.fixture(scope="module", params=["grpcio", "envoy"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Two workers that answer, drained in the end."""
    running = Served(tmp_path_factory.mktemp("workers"), request.param)
    try:
        running.wait_for(lambda: len(running.workers()) == 2)
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
        running.process.wait(60)


class Asking:
    """Clients that ask without a pause, each over a connection of its own."""

    def __init__(self, served: Served, clients: int = 4) -> None:
        self.codes: Counter[str] = Counter()
        self._port = served.grpc
        # Envoy leaves no call behind: there nobody has to ask again.
        self._more = [("grpc.service_config", RETRY)] if served.server == "grpcio" else []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        message = make_message().SerializeToString()
        # A pool of its own for each: else gRPC joins them to one connection.
        options = [("grpc.use_local_subchannel_pool", 1), *self._more]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options) as channel:
            ask = channel.unary_unary(CHECK)
            while not self._stop.is_set():
                try:
                    answer = ask(message, timeout=20)
                    self.codes[f"status {CheckResponse.FromString(answer).status.code}"] += 1
                except grpc.RpcError as exc:
                    self.codes[f"{exc.code()}: {exc.details()}"] += 1


class Connecting(Asking):
    """Clients that come anew each time, and wait for a server's first word."""

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self._port), 20) as connection:
                    # Closed without a trace: else the ports of this machine would run out.
                    connection.setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                    )
                    connection.sendall(PREFACE)
                    self.codes["greeted" if connection.recv(9) else "sent away"] += 1
            except OSError as exc:
                self.codes[str(exc)] += 1


def test_replacing_all_workers_fails_nobody(served: Served) -> None:
    """SIGHUP under load: both workers are others, and nobody was turned away, newcomers included.

    Who asks may have to ask again once; who connects in the moment in which a worker closes its
    socket is greeted.
    """
    before = set(served.children())

    with Asking(served) as asking, Connecting(served, clients=2) as connecting:
        served.wait_for(lambda: asking.codes.total() > 50)
        served.process.send_signal(signal.SIGHUP)
        served.wait_for(
            lambda: not before & set(served.children()) and served.workers() == {"1b", "2b"}
        )
        seen = asking.codes.total()
        served.wait_for(lambda: asking.codes.total() > seen + 50)

    log = (served.folder / "log").read_text()
    assert {"status 0"} == set(asking.codes), (asking.codes, log)
    assert {"greeted"} == set(connecting.codes), (connecting.codes, log)
    assert "connections_not_dealt" not in log


@pytest.mark.failure("worker-killed")
def test_a_killed_worker_is_started_again(served: Served) -> None:
    """Its seat is taken by another one; the others answer meanwhile."""
    victim = served.children()[0]
    names = served.workers()

    os.kill(victim, signal.SIGKILL)

    served.wait_for(lambda: victim not in served.children() and served.workers() == names)
    with Asking(served) as asking:
        served.wait_for(lambda: asking.codes.total() > 20)
    assert {"status 0"} == set(asking.codes), asking.codes


def test_what_workers_count_is_added_up(served: Served) -> None:
    """The decisions of all workers are one number, and gauges name their worker."""
    names = served.workers()
    pattern = re.compile(r'^meshwarden_decisions_total\{.*effect="allow".*\} (\S+)$', re.M)

    def counted() -> float:
        text = httpx.get(f"http://127.0.0.1:{served.http}/metrics").text
        assert names == set(re.findall(r'meshwarden_policies\{worker="(\w+)"\}', text))
        return sum(map(float, pattern.findall(text)))

    before = counted()
    with Asking(served, clients=6) as asking:
        served.wait_for(lambda: asking.codes.total() > 30)

    assert before + asking.codes.total() == counted()


def test_a_second_server_on_the_port_is_refused(served: Served) -> None:
    """Sharing the port among workers does not share it with strangers."""
    command = [sys.executable, "-m", "authz", "serve", "-c", str(served.folder / "serve.json")]
    ended = subprocess.run(
        [*command, "--workers", "2"], capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode
    assert "cannot be listened on" in ended.stderr


def test_a_stop_drains_all_and_every_log_verifies(served: Served) -> None:
    """SIGTERM ends every process, and each worker's chain is whole."""
    children = served.children()

    served.process.terminate()

    assert 0 == served.process.wait(60)
    assert not [each for each in children if Path(f"/proc/{each}").exists()]
    verify = [sys.executable, "-m", "authz", "audit", "verify", str(served.folder / "audit")]
    checked = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == checked.returncode, checked.stdout + checked.stderr
    # A seat's second name is there where a test before this one, in the same process, replaced it.
    logs = {path.name for path in (served.folder / "audit").iterdir() if path.is_dir()}
    assert {"worker-1", "worker-2"} <= logs <= {"worker-1", "worker-2", "worker-1b", "worker-2b"}


@pytest.mark.parametrize(
    ("answers", "is_ready", "same"),
    [
        (((True, "a"), (True, "a")), True, True),
        (((True, "a"), (True, "b")), True, False),
        (((False, "b"), (True, "a")), True, False),
        (((False, "a"), None), False, True),
        ((None, None), False, True),
    ],
)
def test_workers_that_decide_by_different_sets_are_told(
    answers: tuple[tuple[bool, str] | None, ...], is_ready: bool, same: bool
) -> None:
    """One ready worker is enough; two revisions among those that answer are flagged."""
    told = {
        str(number): each and {"ready": each[0], "revision": each[1]}
        for number, each in enumerate(answers)
    }
    expected = {"ready": is_ready, "same_revision": same, "workers": told}
    assert (is_ready, expected) == readiness_of(told, is_stopping=False)
    assert (False, {**expected, "ready": False}) == readiness_of(told, is_stopping=True)


def test_counters_add_up_and_gauges_do_not() -> None:
    """Counters and buckets are sums; a gauge keeps one value for each worker."""
    text = """# TYPE c_total counter
c_total{a="x"} %d
# TYPE h histogram
h_bucket{le="1"} %d
h_bucket{le="+Inf"} %d
h_sum %d
h_count %d
# TYPE g gauge
g %d
"""
    merged = merge_metrics({"1": text % (1, 2, 3, 4, 3, 5), "2": text % (10, 20, 30, 40, 30, 50)})
    lines = set(merged.decode().splitlines())

    assert {
        'c_total{a="x"} 11.0', 'h_bucket{le="1"} 22.0', 'h_bucket{le="+Inf"} 33.0', "h_sum 44.0",
        "h_count 33.0", 'g{worker="1"} 5.0', 'g{worker="2"} 50.0',
    } <= lines  # fmt: skip


@pytest.mark.parametrize("address", ["unix:///run/m.sock", "127.0.0.1:0"])
def test_workers_need_a_port_to_share(address: str, tmp_path: Path) -> None:
    """A Unix socket or a port of the system's choice cannot be shared: told at once."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    configuration = {
        "listen": {"grpc": address},
        "policies": {"paths": [str(tmp_path / "policy.yaml")]},
        "audit": {"folder": str(tmp_path / "audit")},
    }
    (tmp_path / "serve.json").write_text(json.dumps(configuration))
    command = [sys.executable, "-m", "authz", "serve", "-c", str(tmp_path / "serve.json")]

    ended = subprocess.run(
        [*command, "--workers", "2"], capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode
    assert "workers share a port" in ended.stderr
