"""What a check costs end to end: ours, the limit of gRPC in Python, and OPA, one core each.

Contestants take turns on the same core while the load comes from the other; in each round
every contestant runs once, so that a share is that of one and the same minute. The first
contest has the stated goals: 1,000 policies, a peer and a token that was seen before, audit
in the mode `spill`; all is asked again and again, so that decisions are recalled. The second
is the same with paths that never came before, which are recalled as paths that policies see
alike; beside it all of it is decided anew. The others show what else costs what, and refuse nothing
that waited for less than Envoy would (200 ms). `--quick` runs
the first two alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from rich.console import Console

from bench.check_contest.envoy import (
    ext_authz,
    missing_envoy_tool,
    native_rbac,
    put_http_load,
    start_envoy,
)
from bench.check_contest.load import (
    Load,
    missing_tool,
    put_under_load,
    put_under_varied_load,
)
from bench.check_contest.report import Row, write_plot, write_table
from bench.check_contest.servers import (
    Server,
    end_in_order,
    find_program,
    start_meshwarden,
    start_noop,
    start_opa,
)
from bench.check_contest.workload import Workload
from bench.harness import RESULTS, Goal, Measurement, judge, publish

_METHOD = "/envoy.service.auth.v3.Authorization/Check"
_OURS = "Meshwarden"
_BY_ENVOY = "Meshwarden, listen.server: envoy"
_EACH_WALKED = "the same, nothing remembered"
_ENVOY: Mapping[str, Any] = {"listen": {"server": "envoy"}}
# WHY: 40 checks are open all the time, of whatever a workload costs, and what waits longer than an
# authorizer's own bound is refused: that would be the measure of another thing.
_PATIENT: Mapping[str, Any] = {"overloadMilliseconds": 200}
_HEADLINE = "1,000 policies, cached token"
_NEVER_TWICE = "the same, every path new"
_OF_LIMIT, _OVER_OPA = 0.80, 2.0
# More than a run asks, so that the first has not come again when it ends.
_MESSAGES = 60_000

_PutLoad = Callable[[Server], Load]


@dataclass(frozen=True)
class Contest:
    """Meshwarden under one workload, with settings of its own."""

    name: str
    work: Workload
    settings: Mapping[str, Any] = field(default_factory=dict)


# A decision that is remembered would not have its token verified again.
_NO_MEMORY: Mapping[str, Any] = {
    "identity": {"tokenMemory": {"maxTokens": 0}},
    "decisionMemory": {"maxDecisions": 0},
}
_CONTESTS = (
    Contest("10 policies", Workload(policies=10)),
    Contest("10,000 policies", Workload(policies=10_000)),
    Contest("1,000 over 100 workloads", Workload(workloads=100)),
    Contest("10,000 over 1,000 workloads", Workload(policies=10_000, workloads=1000)),
    Contest("peer only", Workload(with_token=False)),
    Contest("token never seen", Workload(), _NO_MEMORY),
    Contest("CUSTOM with Rego", Workload(custom=True)),
    Contest("10 dry-run policies", Workload(policies=10, shadow=True)),
    Contest("audit strict", Workload(), {"audit": {"mode": "strict"}}),
    Contest("audit best-effort", Workload(), {"audit": {"mode": "best-effort"}}),
)


def main() -> int:
    """Measure, print, write the results; 1 when a goal is missed or a tool is."""
    missing = missing_tool()
    if missing is not None or (os.cpu_count() or 1) < 2:  # one for each side
        print(f"bench check needs two cores and {missing or 'a second core'}", file=sys.stderr)
        return 1
    end_in_order()
    is_quick = "--quick" in sys.argv
    is_whole = True
    with TemporaryDirectory() as name:
        rows = _headline(Path(name), rounds=5 if is_quick else 7)
        rows += _never_twice(Path(name, "never"), rounds=3)
        for index, contest in enumerate(() if is_quick else (*_CONTESTS, None)):
            folder = Path(name, str(index))
            try:
                rows += (
                    _through_envoy(folder, rounds=3)
                    if contest is None
                    else _beside_the_limit(folder, contest, rounds=3)
                )
            except RuntimeError as exc:
                # What was measured is told all the same.
                print(f"{contest.name if contest else 'through Envoy'}: {exc}", file=sys.stderr)
                is_whole = False
    RESULTS.mkdir(exist_ok=True)
    Console().print(write_table(rows, RESULTS / "check.md"), soft_wrap=True)
    write_plot(rows, RESULTS / "check.svg")
    code = publish(judge("check", [_measurement(row) for row in rows], _goals(rows)))
    return code if is_whole else 1


def _headline(folder: Path, rounds: int) -> list[Row]:
    """Return the rows of the contest that the goals are about."""
    work = Workload()
    with ExitStack() as stack:
        servers = _all_servers(stack, folder, work)
        return _in_turn(_HEADLINE, servers, work, rounds, _asking_again(work, seconds=2.0))


def _never_twice(folder: Path, rounds: int) -> list[Row]:
    """Return the rows of the same contest where no check has a path of one before it."""
    program = find_program("meshwarden-closed-load")
    if program is None:
        print("no contest of new paths: see bench/README.md for the load generator")
        return []
    work = Workload()
    with ExitStack() as stack:
        servers = _all_servers(stack, folder, work)
        walking = {**_ENVOY, "decisionMemory": {"maxDecisions": 0}}
        walked = start_meshwarden(_EACH_WALKED, folder / "walked", work, walking)
        servers.insert(3, stack.enter_context(walked))
        messages = folder / "messages"
        messages.write_bytes(work.messages(_MESSAGES))

        def put_load(server: Server) -> Load:
            return put_under_varied_load(
                program, server.port, messages, 2.0, cpu_seconds=server.cpu_seconds
            )

        return _in_turn(_NEVER_TWICE, servers, work, rounds, put_load)


def _all_servers(stack: ExitStack, folder: Path, work: Workload) -> list[Server]:
    """Start the limit, ours with either listener, and OPA where it is there."""
    servers = [stack.enter_context(start_noop(folder / "noop"))]
    servers.append(stack.enter_context(start_meshwarden(_OURS, folder / "ours", work)))
    by_envoy = start_meshwarden(_BY_ENVOY, folder / "envoy", work, _ENVOY)
    servers.append(stack.enter_context(by_envoy))
    opa = start_opa(folder / "opa", work)
    if opa is None:
        print("no opa-envoy-plugin, and nothing in its place: see bench/README.md")
    else:
        servers.append(stack.enter_context(opa))
    return servers


def _asking_again(work: Workload, seconds: float) -> _PutLoad:
    """Return what puts a server under the load of one check that comes again and again."""
    body = work.body()

    def put_load(server: Server) -> Load:
        return put_under_load(
            server.port,
            body,
            seconds,
            cpu_seconds=server.cpu_seconds,
            refused=server.refused,
        )

    return put_load


def _beside_the_limit(folder: Path, contest: Contest, rounds: int) -> list[Row]:
    """Return the rows of one contest; the limit runs in every round beside them."""
    work = contest.work
    settings = {**contest.settings, "listen": _PATIENT}
    behind_envoy = {**settings, "listen": {**_PATIENT, **_ENVOY["listen"]}}
    with (
        start_noop(folder / "noop") as limit,
        start_meshwarden(_OURS, folder / "ours", work, settings) as ours,
        start_meshwarden(_BY_ENVOY, folder / "envoy", work, behind_envoy) as by_envoy,
    ):
        servers = [limit, ours, by_envoy]
        return _in_turn(contest.name, servers, work, rounds, _asking_again(work, seconds=1.0))[1:]


def _through_envoy(folder: Path, rounds: int) -> list[Row]:
    """Return the rows of HTTP clients: no authorization, Envoy's own, the limit behind it, ours."""
    missing = missing_envoy_tool()
    if missing is not None:
        print(f"no contest through Envoy: it needs {missing}")
        return []
    work = Workload(with_token=False, by_header=True)
    settings = {"workload": {"namespace": "shop", "labels": {"app": "app-0"}}}
    with ExitStack() as stack:
        limit = stack.enter_context(start_noop(folder / "noop"))
        ours = stack.enter_context(start_meshwarden(_OURS, folder / "ours", work, settings))
        settings = {**settings, **_ENVOY}
        by_envoy = stack.enter_context(
            start_meshwarden(_BY_ENVOY, folder / "envoy", work, settings)
        )
        plans: list[tuple[str, list[dict[str, Any]], Server | None]] = [
            ("no-op grpc.server", ext_authz(), limit),
            (_OURS, ext_authz(), ours),
            (_BY_ENVOY, ext_authz(), by_envoy),
            ("native RBAC", native_rbac(folder / "rbac", work), None),
            ("no authorization", [], None),
        ]
        fronts = [
            (stack.enter_context(start_envoy(name, folder / str(index), filters, port)), behind)
            for index, (name, filters, behind) in enumerate(plans)
            for port in [behind.port if behind else 1]
        ]
        loads: dict[str, list[Load]] = {name: [] for name, _, _ in plans}
        for front, behind in fronts * rounds:
            loads[front.name].append(put_http_load(front, behind, work, 1.0))
    if any(each.failed for found in loads.values() for each in found):
        raise RuntimeError("not every request was let in through Envoy")
    limits = tuple(loads["no-op grpc.server"])
    return [Row("through Envoy", name, tuple(each), limits) for name, each in loads.items()]


def _in_turn(
    contest: str, servers: Sequence[Server], work: Workload, rounds: int, put_load: _PutLoad
) -> list[Row]:
    """Put the servers under load, one after the other, the first of which is the limit."""
    for server in servers[1:]:
        _prove(server, work)
    for server in servers:
        server.pause()
    loads: dict[str, list[Load]] = {server.name: [] for server in servers}
    for turn in range(rounds):
        for step in range(len(servers)):
            server = servers[(turn + step) % len(servers)]
            server.resume()
            loads[server.name].append(put_load(server))
            server.pause()
    limits = tuple(loads[servers[0].name])
    return [Row(contest, name, tuple(each), limits) for name, each in loads.items()]


def _prove(server: Server, work: Workload) -> None:
    """Hold that the contestant lets in what it should, and nothing else."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        ask = channel.unary_unary(_METHOD)
        for is_allowed in (True, False):
            answer = ask(work.message(is_allowed=is_allowed), timeout=10)
            code = CheckResponse.FromString(answer).status.code
            if (code == 0) is not is_allowed:
                raise RuntimeError(f"`{server.name}` answers {code}; allowed is {is_allowed}")


def _measurement(row: Row) -> Measurement:
    return Measurement(
        name=f"{row.contest}: {row.name}",
        samples=tuple(each.nanoseconds for each in row.loads),
        calls_per_sample=1,
    )


def _goals(rows: Sequence[Row]) -> list[Goal]:
    limit, _, ours, *opa = [f"{_HEADLINE}: {row.name}" for row in rows if row.contest == _HEADLINE]
    goals = [Goal(name="of the no-op server", numerator=limit, denominator=ours, limit=_OF_LIMIT)]
    if opa:
        goals.append(Goal(name="over OPA", numerator=opa[0], denominator=ours, limit=_OVER_OPA))
    return goals


if __name__ == "__main__":
    sys.exit(main())
