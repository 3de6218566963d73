"""What the record costs a check: the time on its way, and the work behind it.

The same checks are answered with the record off (offers go nowhere) and on (mode `spill`, a
real folder), in turns. On the way counts what a caller waits for; what the writer's thread
does afterwards is told apart, as CPU time a decision: on one core it is paid there too.
Goal: at most 15 microseconds more on the way.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from audit.mould import RepeatedRecord
from audit.record import AuditRecord
from audit.settings import AuditSettings
from audit.writer import AuditWriter
from authz.build import load_state
from authz.interpreter import set_up_for_serving
from authz.metrics import Metrics
from authz.pipeline import Authorizer, Recorder
from authz.walk import Surroundings
from bench.check_contest.workload import Workload
from bench.harness import RESULTS
from identity.jwks_cache import JwksCache
from identity.token_memory import TokenMemory
from policies.mesh import Mesh

_LIMIT_MICROSECONDS = 15.0
# Fewer than the queue takes: a full queue makes callers wait, and is another question.
_ROUNDS, _CHECKS = 40, 200


class _Nowhere:
    """Takes records and keeps none."""

    def offer(self, record: AuditRecord | RepeatedRecord) -> None:
        """Accept a record."""


def main() -> int:
    """Measure, print, write the result; 1 when the goal is missed."""
    work = Workload()
    with TemporaryDirectory() as name:
        (Path(name) / "policies.yaml").write_text("---\n".join(work.istio()), "utf-8")
        state = load_state([Path(name) / "policies.yaml"], Mesh(), ())
        keys = JwksCache(fetch=_no_network)
        keys.prepare(state.snapshot.jwt_rules)
        around = Surroundings(keys=keys, verify_token=TokenMemory().verify)
        writer = AuditWriter(AuditSettings(folder=Path(name) / "audit"), node="bench")

        def authorizer(recorder: Recorder) -> Authorizer:
            return Authorizer(
                state=lambda: state, around=around, recorder=recorder, metrics=Metrics()
            )

        set_up_for_serving()
        off, on = authorizer(_Nowhere()), authorizer(writer)
        found = _measure(off, on, writer, work.message())
        writer.close()
        keys.close()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "audit.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    Console().print_json(json.dumps(found))
    return 0 if found["met"] else 1


def _no_network(url: str, timeout_seconds: float) -> Any:
    raise OSError(f"no network in a bench: {url}, {timeout_seconds}")


def _measure(
    off: Authorizer, on: Authorizer, writer: AuditWriter, message: bytes
) -> dict[str, Any]:
    """Return microseconds a check: medians of the rounds, and of their differences."""
    differences, without, with_, behind = [], [], [], []
    for _ in range(_ROUNDS):
        base = _on_the_way(off, message)
        begun = time.process_time()
        recorded = _on_the_way(on, message)
        _until_written(writer)
        total = (time.process_time() - begun) / _CHECKS * 1e6
        without.append(base)
        with_.append(recorded)
        differences.append(recorded - base)
        behind.append(total - base)
    more = statistics.median(differences)
    return {
        "check_microseconds_off": round(statistics.median(without), 1),
        "check_microseconds_on": round(statistics.median(with_), 1),
        "more_on_the_way_microseconds": round(more, 1),
        "limit_microseconds": _LIMIT_MICROSECONDS,
        "more_cpu_with_the_writer_microseconds": round(statistics.median(behind), 1),
        "met": more <= _LIMIT_MICROSECONDS,
    }


def _on_the_way(authorizer: Authorizer, message: bytes) -> float:
    """Return the CPU microseconds that this thread takes for a check."""
    begun = time.thread_time()
    for _ in range(_CHECKS):
        authorizer.check(message)
    return (time.thread_time() - begun) / _CHECKS * 1e6


def _until_written(writer: AuditWriter) -> None:
    pause = threading.Event()
    while writer.waiting:
        pause.wait(0.005)


if __name__ == "__main__":
    sys.exit(main())
