"""Ten times the checks that can be answered: what becomes of those that are, and of the rest.

First the rate that one core sustains, the waits at a fifth of it, and what is decided where four
fifths are asked; then ten times the rate for a minute (`--quick`: 15 s), asked whether or not
answers come; then four fifths of it again. For each way to listen (`listen.server`; SERVER names
one alone), and judged by the best. Goals: the 99th percentile of the answered at most 5 times the
unloaded one, and that of those that are refused too; memory bounded; and full speed again within
two seconds: as much is decided in one of them as in the middle second before, and in the middle
one of those that follow. Needs the load generator beside this file, built with Go.

Who asks is two Envoys of four threads with the circuit breaker that `meshwarden envoy-config`
prints: eight connections, and so many checks that wait for one; what exceeds that they refuse by
themselves (`unsent`). Beside it, and not judged, Envoys without: 64 connections, and 1,024 that are
open or wait, as many as Envoy lets by itself. The server is set up for what it is asked, peers
and tokens: two threads, for neither waits for anybody, and a short time to wait for one.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.console import Console

from authz.envoy_config import most_at_once
from bench.check_contest.load import missing_tool, put_under_load
from bench.check_contest.open_load import PROGRAM, OpenLoad, Period
from bench.check_contest.processes import take_sample
from bench.check_contest.servers import Server, end_in_order, find_program, start_meshwarden
from bench.check_contest.workload import Workload
from bench.harness import RESULTS

_TIMES, _UNLOADED, _BACK = 10, 0.2, 0.8
_LIMIT: Final = 5.0
_GROWTH_MEGABYTES: Final = 100
_BACK_PERIODS: Final = 2
_BACK_SHARE: Final = 0.95
_SHORT: Final = {"threads": 2, "overloadMilliseconds": 2}
_ENVOYS: Final = 2
_BOUND: Final = most_at_once(1, _SHORT["overloadMilliseconds"] / 1000)
_OPEN: Final = 1024
_UNBOUND_CONNECTIONS: Final = 64
_SERVERS: Final = ("grpcio", "envoy")


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed or a tool is."""
    generator = find_program(PROGRAM)
    missing = missing_tool() or ("" if generator else f"{PROGRAM}: see bench/README.md")
    if missing or generator is None:
        print(f"bench overload needs {missing}", file=sys.stderr)
        return 1
    end_in_order()
    seconds = 15.0 if "--quick" in sys.argv else 60.0
    chosen = os.environ.get("SERVER")
    every = {
        name: _contest(name, generator, seconds) for name in ([chosen] if chosen else _SERVERS)
    }
    found = {"servers": every, "met": any(each["met"] for each in every.values())}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overload.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    Console().print_json(json.dumps(found))
    return 0 if found["met"] else 1


def _contest(name: str, generator: str, seconds: float) -> dict[str, Any]:
    work, settings = Workload(), {"listen": {"server": name, **_SHORT}}
    with TemporaryDirectory() as folder:
        message = Path(folder, "message")
        data = work.message()
        message.write_bytes(struct.pack(">BI", 1, len(data)) + data)
        with start_meshwarden("Meshwarden", Path(folder, "server"), work, settings) as server:
            return _measure(server, work, _Asking(generator, server, message), seconds)


class _Asking:
    """Puts loads on one server."""

    def __init__(self, generator: str, server: Server, message: Path) -> None:
        self._generator, self._server, self._message = generator, server, message

    def periods(
        self, rate: float, seconds: float, count: int, *, bound: bool = True
    ) -> list[Period]:
        """Ask for so long, and return what became of it in so many periods."""
        connections, pending = _BOUND.max_connections or 0, _BOUND.max_pending_requests or 0
        load = OpenLoad(
            program=self._generator,
            port=self._server.port,
            messages=self._message,
            rate=rate,
            seconds=seconds,
            period_seconds=seconds / count,
            connections=_ENVOYS * connections if bound else _UNBOUND_CONNECTIONS,
            open_checks=_OPEN,
            pending=_ENVOYS * pending if bound else _OPEN,
        )
        return list(load.periods())


def _measure(server: Server, work: Workload, asking: _Asking, seconds: float) -> dict[str, Any]:
    most = put_under_load(
        server.port, work.body(), 5.0, cpu_seconds=server.cpu_seconds, refused=server.refused
    )
    rate = most.rate
    asking.periods(rate * _UNLOADED, 2.0, 1)
    [unloaded] = asking.periods(rate * _UNLOADED, 10.0, 1)
    # A core of a shared machine does not decide as much in every second: what it did before counts.
    full = _middle(asking.periods(rate * _BACK, 10.0, 10))
    before = take_sample(server.process.pid).proportional
    with _Peak(server) as peak:
        [over] = asking.periods(rate * _TIMES, seconds, 1)
        back = asking.periods(rate * _BACK, 10.0, 10)
        [unbound] = asking.periods(rate * _TIMES, 10.0, 1, bound=False)
    ratio = over.decisions.p99 / unloaded.decisions.p99
    others = over.others.p99 / unloaded.decisions.p99
    is_full = [each.decided >= _BACK_SHARE * full for each in back]
    return {
        "sustainable_rate": round(rate),
        "asked": round(rate * _TIMES * seconds),
        "unloaded": asdict(unloaded),
        "overloaded": asdict(over),
        "overloaded_without_a_breaker": asdict(unbound),
        "afterwards": [asdict(each) for each in back],
        "ratio_of_p99": round(ratio, 2),
        "ratio_of_the_refused": round(others, 2),
        "limit": _LIMIT,
        "megabytes": [round(before), round(peak.megabytes)],
        "full_speed": full,
        "seconds_until_full_speed": is_full.index(True) if any(is_full) else None,
        "met": over.decided > 0
        and not over.wrong
        and ratio <= _LIMIT
        and others <= _LIMIT
        and any(is_full[:_BACK_PERIODS])
        and _middle(back[_BACK_PERIODS:]) >= _BACK_SHARE * full
        and peak.megabytes - before <= _GROWTH_MEGABYTES,
    }


def _middle(periods: Sequence[Period]) -> float:
    """Return how many were decided in the middle one of some periods."""
    return statistics.median(each.decided for each in periods)


class _Peak:
    """Looks at a server's memory while it is entered; `megabytes` is the most that was seen."""

    def __init__(self, server: Server) -> None:
        self.megabytes = 0.0
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            now = take_sample(self._server.process.pid).proportional
            self.megabytes = max(self.megabytes, now)


if __name__ == "__main__":
    sys.exit(main())
