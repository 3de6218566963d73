"""What a decision by Rego costs: ours embedded, OPA's own engine, and OPA over REST.

Three policies, each with inputs that nobody has seen before (a field that the policy looks
at differs from call to call) and with one input again and again. "OPA's engine" is what
OPA itself says that it took, for the same inputs in the same run: reading the input and
evaluating (`timer_rego_input_parse_ns` and `timer_rego_query_eval_ns`), without HTTP. Ours
is the whole call: cutting the input down, the way to the worker and back, the result.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from bench.harness import Goal, Measurement, judge, publish
from opa_bridge.embedded import EmbeddedEngine
from opa_bridge.engine import Engine
from opa_bridge.opa_address import OpaServer
from opa_bridge.opa_server import OpaServerEngine

_ROUNDS, _CALLS = 15, 200
_LIMIT = 1.2

Inputs = Iterator[dict[str, Any]]
# One sample: nanoseconds a call, over some calls.
Sampler = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy with its data; `make` returns the input of a number, `allow` decides."""

    name: str
    module: str
    data: Mapping[str, Any]
    make: Callable[[int], dict[str, Any]]

    @property
    def entrypoint(self) -> str:
        """The rule that is asked."""
        return f"{self.name}/allow"


def request(number: int, path: Sequence[str]) -> dict[str, Any]:
    """Return an input as it is made of a request with a dozen headers."""
    headers = {
        ":authority": "orders.shop.example",
        ":method": "GET",
        ":path": "/" + "/".join(path),
        ":scheme": "https",
        "accept": "application/json",
        "accept-encoding": "gzip, deflate, br",
        "user-agent": "orders-web/4.2 (linux; x86_64)",
        "x-forwarded-for": "10.4.2.17",
        "x-forwarded-proto": "https",
        "x-request-id": f"5e2ab2f8-44a5-4a3b-9d2a-{number:012d}",
        "x-user": f"user-{number % 250}",
    }
    address = {"socketAddress": {"address": "10.4.2.17", "portValue": 51234}}
    http_ = {"id": str(number), "method": "GET", "host": "orders.shop.example", "size": 0}
    return {
        "version": {"ext_authz": "v3", "encoding": "protojson"},
        "attributes": {
            "source": {"address": address, "principal": "spiffe://td/ns/shop/sa/web"},
            "destination": {"address": address, "principal": "spiffe://td/ns/shop/sa/orders"},
            "request": {
                "time": {"seconds": 1_790_000_000, "nanos": 5},
                "http": {**http_, "path": headers[":path"], "headers": headers},
            },
        },
        "parsed_path": list(path),
        "parsed_query": {},
        "parsed_body": None,
        "truncated_body": False,
        "meshwarden": {
            "peer": {"principal": "spiffe://td/ns/shop/sa/web", "namespace": "shop"},
            "claims": {
                "iss": "https://issuer.example",
                "sub": f"user-{number}",
                "aud": ["orders", "billing"],
                "exp": 1_790_003_600,
                "groups": ["staff", f"team-{number % 7}"],
            },
        },
    }


_ROLES = Policy(
    "roles",
    """package roles
default allow := false
allow if {
    some role in data.users[input.attributes.request.http.headers["x-user"]]
    some grant in data.grants[role]
    grant.method == input.attributes.request.http.method
    grant.resource == input.parsed_path[0]
    input.parsed_path[1] != "export"
}
""",
    {
        "users": {f"user-{n}": [f"role-{n % 20}"] for n in range(250)},
        "grants": {
            f"role-{n}": [
                {"method": method, "resource": resource}
                for method in ("POST", "GET")
                for resource in (f"items-{n}", "orders")
            ]
            for n in range(20)
        },
    },
    lambda number: request(number, ["orders", str(number)]),
)
_TABLE = Policy(
    "table",
    "package table\ndefault allow := false\n"
    + "".join(
        f"""allow if {{
    input.attributes.request.http.method == "GET"
    input.parsed_path[2] == "service-{n}"
    input.parsed_path[3] != "admin"
}}
"""
        for n in range(200)
    ),
    {},
    lambda number: request(number, ["api", "v1", f"service-{number % 200}", str(number)]),
)
_CLAIMS = Policy(
    "claims",
    """package claims
default allow := false
claims := input.meshwarden.claims
allow if {
    claims.iss == "https://issuer.example"
    "orders" in claims.aud
    claims.exp > input.attributes.request.time.seconds
    startswith(claims.sub, "user-")
    some group in claims.groups
    group in {"staff", "admins"}
}
""",
    {},
    lambda number: request(number, ["orders"]),
)
POLICIES = (_ROLES, _TABLE, _CLAIMS)


def engine_sampler(engine: Engine, inputs: Inputs) -> Sampler:
    """Return what times whole calls of an engine; the inputs are made before."""

    def sample() -> float:
        documents = list(itertools.islice(inputs, _CALLS))
        begun = time.perf_counter_ns()
        for document in documents:
            engine.evaluate(document)
        return (time.perf_counter_ns() - begun) / _CALLS

    return sample


def opa_sampler(host: str, policy: Policy, inputs: Inputs) -> Sampler:
    """Return what asks OPA for its own timers."""
    connection = http.client.HTTPConnection(host)
    path = f"/v1/data/{policy.entrypoint}?metrics=true"

    def sample() -> float:
        total = 0
        for document in itertools.islice(inputs, _CALLS):
            connection.request("POST", path, json.dumps({"input": document}))
            answer = json.loads(connection.getresponse().read())
            assert answer["result"] is True, answer
            taken = answer["metrics"]
            total += taken["timer_rego_input_parse_ns"] + taken["timer_rego_query_eval_ns"]
        return total / _CALLS

    return sample


@contextmanager
def running_opa(binary: str) -> Iterator[str]:
    """Yield host and port of an OPA server that holds every policy."""
    with TemporaryDirectory(prefix="opa-") as folder, socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{found.getsockname()[1]}"
        found.close()
        for policy in POLICIES:
            Path(folder, f"{policy.name}.rego").write_text(policy.module, "utf-8")
        data = {key: value for policy in POLICIES for key, value in policy.data.items()}
        Path(folder, "data.json").write_text(json.dumps(data), "utf-8")
        command = [binary, "run", "--server", "--log-level", "error", "--addr", host, folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            OpaServerEngine(OpaServer(url=f"http://{host}"), POLICIES[0].entrypoint).check(20)
            yield host
        finally:
            process.kill()
            process.wait()


def never_seen(policy: Policy) -> Inputs:
    """Return inputs of which no two are the same to the policy."""
    return map(policy.make, itertools.count())


def samplers_of(policy: Policy, host: str | None, stack: ExitStack) -> dict[str, Sampler]:
    """Return the contestants of one policy by their names; warmed up, and proven to allow."""
    # One worker: one call after the other, as OPA gets them.
    modules = [(f"{policy.name}.rego", policy.module)]
    engine, other = (
        EmbeddedEngine(modules, policy.entrypoint, policy.data, workers=1) for _ in range(2)
    )
    stack.callback(engine.close)
    stack.callback(other.close)
    assert other.evaluate(policy.make(0)) is True
    again = itertools.repeat(policy.make(0))
    found = {
        f"{policy.name}: embedded, never seen": engine_sampler(engine, never_seen(policy)),
        f"{policy.name}: embedded, seen before": engine_sampler(other, again),
    }
    if host is not None:
        server = OpaServerEngine(OpaServer(url=f"http://{host}"), policy.entrypoint)
        stack.callback(server.close)
        assert server.evaluate(policy.make(0)) is True
        found |= {
            f"{policy.name}: OPA's engine": opa_sampler(host, policy, never_seen(policy)),
            f"{policy.name}: opa over REST": engine_sampler(server, never_seen(policy)),
        }
    for sample in found.values():
        sample()
    assert not engine.stats().remembered_hits, "an input was seen before"
    return found


def measure(samplers: Mapping[str, Sampler]) -> list[Measurement]:
    """Return the samples, a round of all contestants after the other."""
    taken: dict[str, list[float]] = {name: [] for name in samplers}
    names = list(samplers)
    for turn in range(_ROUNDS):
        for step in range(len(names)):
            name = names[(turn + step) % len(names)]
            taken[name].append(samplers[name]())
    return [
        Measurement(name=name, samples=tuple(samples), calls_per_sample=_CALLS)
        for name, samples in taken.items()
    ]


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed."""
    binary = os.environ.get("MESHWARDEN_OPA") or shutil.which("opa")
    measured: list[Measurement] = []
    goals: list[Goal] = []
    with ExitStack() as stack:
        host = stack.enter_context(running_opa(binary)) if binary else None
        for policy in POLICIES:
            measured += measure(samplers_of(policy, host, stack))
            if host is not None:
                goals.append(
                    Goal(
                        name=f"{policy.name}: embedded over OPA's engine",
                        numerator=f"{policy.name}: embedded, never seen",
                        denominator=f"{policy.name}: OPA's engine",
                        limit=_LIMIT,
                        kind="at_most",
                    )
                )
    if host is None:
        Console().print(
            "no OPA (MESHWARDEN_OPA, or `opa` on the PATH): missing are OPA's engine and opa over "
            "REST, so no goal is judged"
        )
    return publish(judge("rego", measured, goals))


if __name__ == "__main__":
    sys.exit(main())
