"""Ten times the checks that can be answered: what becomes of those that are, and of the rest.

First the rate that one core sustains and the waits at a fifth of it; then ten times the rate
for a minute (`--quick`: 15 s), asked whether or not answers come; then a fifth again. Goals:
the 99th percentile of the answered at most 5 times the unloaded one, memory bounded, and full
speed again within two seconds. Needs the load generator beside this file, built with Go.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from bench.check_contest.load import CLIENT_CORE, missing_tool, put_under_load
from bench.check_contest.servers import (
    Server,
    end_in_order,
    find_program,
    resident_megabytes,
    start_meshwarden,
)
from bench.check_contest.workload import Workload
from bench.harness import RESULTS

_TIMES, _SHARE = 10, 0.2
_LIMIT = 5.0
_GROWTH_MEGABYTES = 100
_BACK_SECONDS = 2.0


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed or a tool is."""
    generator = find_program("meshwarden-open-load")
    missing = missing_tool() or ("" if generator else "meshwarden-open-load: see bench/README.md")
    if missing or generator is None:
        print(f"bench overload needs {missing}", file=sys.stderr)
        return 1
    end_in_order()
    work = Workload()
    with TemporaryDirectory() as name:
        message = Path(name, "message")
        message.write_bytes(work.message())
        with start_meshwarden("Meshwarden", Path(name, "server"), work) as server:
            ask = [generator, "-address", f"127.0.0.1:{server.port}", "-message", str(message)]
            found = _measure(server, work, ask, 15.0 if "--quick" in sys.argv else 60.0)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overload.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    Console().print_json(json.dumps(found))
    return 0 if found["met"] else 1


def _measure(server: Server, work: Workload, ask: list[str], seconds: float) -> dict[str, Any]:
    # The generator's own cost counts: what it sustains when it does not wait.
    closed = put_under_load(server.port, work.body(), 5.0, cpu_seconds=server.cpu_seconds)
    rate = closed.rate
    unloaded = _load(ask, rate * _SHARE, 10.0)
    before = resident_megabytes(server)
    over = _load(ask, rate * _TIMES, seconds)
    after = resident_megabytes(server)
    back = _load(ask, rate * _SHARE, 10 * _BACK_SECONDS)
    ratio = over["p99_milliseconds"] / unloaded["p99_milliseconds"]
    # The tenths of the last load are as long as the goal allows: the second must be whole.
    expected = rate * _SHARE * _BACK_SECONDS
    is_back = back["decided_per_tenth"][1] >= 0.98 * expected
    return {
        "sustainable_rate": round(rate),
        "unloaded": unloaded,
        "overloaded": over,
        "afterwards": back,
        "ratio_of_p99": round(ratio, 2),
        "limit": _LIMIT,
        "megabytes": [before, after],
        "is_back_within_seconds": _BACK_SECONDS if is_back else None,
        "met": ratio <= _LIMIT
        and is_back
        and after - before <= _GROWTH_MEGABYTES
        and not over["denied"],
    }


def _load(ask: list[str], rate: float, seconds: float) -> dict[str, Any]:
    command = ["taskset", "-c", CLIENT_CORE, *ask, "-rate", f"{rate:g}", "-seconds", f"{seconds:g}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
