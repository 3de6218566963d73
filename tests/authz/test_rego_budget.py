"""A policy that runs away is stopped, and everybody else keeps being answered: over real gRPC."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from checking import MemoryRecorder, NoKeys, make_message
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse

from authz.build import load_state
from authz.grpc_server import GrpcServer
from authz.metrics import Metrics
from authz.pipeline import Authorizer
from authz.provider_metrics import ProviderMetrics
from authz.provider_settings import ProviderSettings, RegoSettings
from authz.settings import ListenSettings
from authz.walk import Surroundings
from policies.mesh import Mesh
from policies.request import Workload

# Header `x-run` picks the way to run away; without it the answer takes no time.
POLICY = """package envoy.authz
default allow := false
headers := input.attributes.request.http.headers
xs := numbers.range(1, 1000)
many := numbers.range(1, 60000)
allow if {
    not headers["x-run"]
    headers["x-user"]
}
allow if {
    headers["x-run"] == "combinations"
    some x in xs
    some y in xs
    some z in xs
    x + y + z < 0
}
allow if {
    headers["x-run"] == "comprehensions"
    count([a |
        some a in xs
        count([b |
            some b in xs
            count([c | some c in xs; b + c > a]) > 1
        ]) > 1
    ]) < 0
}
allow if {
    headers["x-run"] == "builtin"
    some_texts := ["aaaaaaaaaaaaaaaaab" | some x in many]
    other_texts := ["aaaaaaaaaaaaaaaaac" | some x in many]
    strings.any_prefix_match(some_texts, other_texts)
}
"""
ISTIO = """apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ask, namespace: shop}
spec: {action: CUSTOM, provider: {name: rego}, rules: [{}]}
"""
BUDGET = 0.5
THREADS = ListenSettings().threads
RATE = 50
# The must is 2; another process on the machine may take our turn for a while.
SLACK = 6


@dataclass(slots=True)
class House:
    """A gRPC server with one Rego provider."""

    port: int
    recorder: MemoryRecorder
    metrics: Metrics
    channel: grpc.Channel = field(init=False)
    check: Any = field(init=False)

    def __post_init__(self) -> None:
        """Connect."""
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.check = self.channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")

    def ask(self, seconds: float = 30, **headers: str) -> tuple[bool, float]:
        """Return whether a request was allowed, and how long the answer took."""
        message = make_message(**headers).SerializeToString()
        begun = time.perf_counter()
        answer = CheckResponse.FromString(self.check(message, timeout=seconds))
        return answer.status.code == 0, time.perf_counter() - begun


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Yield the server."""
    (tmp_path / "p.rego").write_text(POLICY)
    (tmp_path / "ask.yaml").write_text(ISTIO)
    rego = RegoSettings(paths=(tmp_path / "p.rego",), timeout_seconds=BUDGET)
    state = load_state([tmp_path / "ask.yaml"], Mesh(), [ProviderSettings(name="rego", rego=rego)])
    recorder, metrics = MemoryRecorder(), Metrics()
    counting = ProviderMetrics(metrics.registry, lambda: state)
    authorizer = Authorizer(
        state=lambda: state,
        around=Surroundings(
            keys=NoKeys(), static_workload=Workload(namespace="shop"), observe=counting.observe
        ),
        recorder=recorder,
        metrics=metrics,
    )
    server = GrpcServer("127.0.0.1:0", THREADS, authorizer.check, timed=True)
    found = House(server.port, recorder, metrics)
    yield found
    found.channel.close()
    server.stop(0)
    for provider in state.providers.values():
        provider.engine.close()


def others(house: House, begin: str, stop: threading.Event) -> list[tuple[bool, float]]:
    """Ask 50 times a second, each time something new, until told to stop; return the answers."""
    with ThreadPoolExecutor(8) as pool:
        asked = []
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            asked.append(pool.submit(house.ask, x_user=f"{begin}-{len(asked)}"))
            due += 1 / RATE
        return [each.result() for each in asked]


@pytest.mark.parametrize("way", ["combinations", "comprehensions", "builtin"])
def test_runaway_is_stopped_and_others_are_not(
    house: House, way: str, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    """Evaluations of 10^9 steps end at their budget; 50 others a second are all allowed."""
    stop = threading.Event()
    threading.Timer(1, stop.set).start()
    quiet = [seconds for _, seconds in others(house, "quiet", stop)]
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(others, house, way, stop)
        stopped = [house.ask(x_run=way, x_user=str(number)) for number in range(3)]
        stop.set()
        answers = beside.result()
    longest = max(seconds for _, seconds in stopped)
    latencies = sorted(seconds for _, seconds in answers)
    told = (
        f"{way}: stopped after {longest:.3f} s at most ({longest / BUDGET:.2f} budgets); "
        f"{len(answers)} others: median {statistics.median(latencies) * 1000:.1f} ms, "
        f"99 % {latencies[int(len(latencies) * 0.99)] * 1000:.1f} ms, "
        f"without a runaway median {statistics.median(quiet) * 1000:.1f} ms"
    )
    record_property("measured", told)
    with capsys.disabled():
        print(f"\n{told}")

    assert not any(allowed for allowed, _ in stopped)
    assert longest < BUDGET * SLACK
    assert len(answers) >= RATE
    assert all(allowed for allowed, _ in answers)
    reasons = {r.decision.reason for r in house.recorder.records if r.decision.effect == "deny"}
    told_by_metrics = house.metrics.text().decode()
    assert reasons == {"provider_timeout"}
    assert 'meshwarden_rego_stopped_total{provider="rego"} 3.0' in told_by_metrics
    assert 'meshwarden_rego_workers_replaced_total{provider="rego"} 3.0' in told_by_metrics


def test_many_that_run_away_at_once(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    """More evaluations than there are cores run away at once, and others are answered."""
    stop = threading.Event()
    with ThreadPoolExecutor(5) as pool:
        beside = pool.submit(others, house, "many", stop)
        attacks = [
            pool.submit(lambda: [house.ask(x_run="combinations", x_user="u") for _ in range(3)])
            for _ in range(4)
        ]
        stopped = [found for attack in attacks for found in attack.result()]
        stop.set()
        answers = beside.result()
    allowed = sum(is_allowed for is_allowed, _ in answers)
    median = statistics.median(seconds for _, seconds in answers) * 1000
    with capsys.disabled():
        print(f"\n4 at once: {allowed} of {len(answers)} others allowed, median {median:.1f} ms")

    assert not any(is_allowed for is_allowed, _ in stopped)
    # All of them on a machine of our own.
    assert allowed > 0.95 * len(answers)


def test_deadline_of_the_check_is_a_limit(house: House) -> None:
    """A caller that waits for less than the budget has its answer before it turns away."""
    allowed, _ = house.ask(seconds=0.3, x_run="combinations", x_user="u")

    assert not allowed
    [record] = house.recorder.records
    assert record.decision.reason == "provider_timeout"
