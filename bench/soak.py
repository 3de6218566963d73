"""Half an hour at four fifths of what the server can: does memory stay, does anything fail?

`meshwarden serve` as somebody would run it: audit by `spill` with segments that are closed,
signed, compressed, given columns and deleted, dry-run policies and a candidate beside the
enforced ones, Rego for one workload, tokens by keys over HTTP. Meanwhile keys change, tokens are
new, no check comes twice, and a policy is edited every 20 s, sometimes into what is no policy.

Capacity is the highest rate that is held for three minutes without one failure, with all of that
going on (`bench.soak_run.capacity`).

Goals: no check fails or is decided wrongly, every edit counts, memory (what no file holds, of
all processes, the least of each minute) gains less than 5 MB an hour once the first five minutes
are over, and the record verifies.
`MINUTES=2` is a short run (memory is judged from ten minutes on); `SERVER` is `listen.server`;
`RATE` is a capacity that is known already. Needs the two load generators beside this file, built
with Go.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.console import Console

from bench.check_contest.load import CLIENT_CORE, missing_tool, put_under_varied_load
from bench.check_contest.open_load import PROGRAM, OpenLoad, Period, failures
from bench.check_contest.processes import Sample, take_sample
from bench.check_contest.servers import Server, end_in_order, find_program, start_serve
from bench.harness import RESULTS
from bench.soak_run.capacity import STEP_SECONDS, highest_sustained
from bench.soak_run.edits import EDIT_SECONDS, Editor
from bench.soak_run.issuer import TURN_SECONDS, Issuer
from bench.soak_run.memory import by_minute, main_by_minute, slope
from bench.soak_run.report import write_table
from bench.soak_run.shop import checks, in_one_file, write_shop

_SHARE, _WARM_UP_SECONDS, _REST_SECONDS = 0.8, 5.0, 3.0
_CLOSED: Final = "meshwarden-closed-load"
_CHECKS_PER_TURN: Final = 2000
_SAMPLE_SECONDS: Final = 5.0
_SETTLED_SECONDS, _JUDGED_MINUTES = 300.0, 10
_SLOPE_LIMIT: Final = 5.0
_SEED: Final = 20
_SERVER: Final = "grpcio"
# Half of what an Envoy waits: what is late for a moment, while policies are loaded and a segment
# is packed on the same core, is answered and not refused.
_LATE_MILLISECONDS: Final = 100
# None of them waits for anybody, so that more would only take turns.
_THREADS: Final = 4


def main() -> int:
    """Measure, print, write the result; 1 when a goal is missed or a tool is."""
    programs = {name: find_program(name) for name in (PROGRAM, _CLOSED)}
    absent = [f"{name}: see bench/README.md" for name, found in programs.items() if found is None]
    missing = missing_tool() or ", ".join(absent)
    if missing:
        print(f"bench soak needs {missing}", file=sys.stderr)
        return 1
    end_in_order()
    minutes = float(os.environ.get("MINUTES", "30"))
    with TemporaryDirectory() as name, ExitStack() as stack:
        # What asks and looks on leaves the server's core alone.
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {int(CLIENT_CORE)})
        soak = _Soak(Path(name), {key: str(value) for key, value in programs.items()}, stack)
        found = soak.run(minutes)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "soak.json").write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    write_table(found, RESULTS / "soak.md")
    Console().print((RESULTS / "soak.md").read_text("utf-8"), markup=False)
    return 0 if found["met"] else 1


class _Soak:
    """The server, its issuer and its editor, and what is seen of them."""

    def __init__(self, folder: Path, programs: dict[str, str], stack: ExitStack) -> None:
        self._folder, self._programs = folder, programs
        self._dice = random.Random(_SEED)  # noqa: S311 - a load, no secret
        self._stop = threading.Event()
        self._samples: list[Sample] = []
        self._issuer = stack.enter_context(Issuer(self._dice))
        self._server = stack.enter_context(self._start())
        self._editor = Editor(folder, self._server)

    def _start(self) -> Server:
        settings = write_shop(self._folder, self._issuer)
        key = self._folder / "audit.pem"
        command = [*_program(), "audit", "new-key", str(key), "--origin", "soak.example/front"]
        made = subprocess.run(command, capture_output=True, text=True, check=True)
        self._verifier_key = made.stdout.strip()
        settings["audit"] = {
            "folder": str(self._folder / "audit"),
            "maxSegmentBytes": 16 << 20,
            "compression": "gzip",
            "columns": True,
            "retention": {"maxBytes": 64 << 20},
            "checkpointKeyFile": str(key),
            "checkpointOrigin": "soak.example/front",
        }
        settings["listen"] = {
            "server": os.environ.get("SERVER", _SERVER),
            "overloadMilliseconds": _LATE_MILLISECONDS,
            "threads": _THREADS,
        }
        return start_serve("Meshwarden", self._folder, settings)

    def run(self, minutes: float) -> dict[str, Any]:
        """Ask for so long and return what was found."""
        self._write_checks()
        rows: list[tuple[Period, float]] = []
        with ThreadPoolExecutor() as pool:
            beside = [
                pool.submit(self._every, TURN_SECONDS, self._turn),
                pool.submit(self._every, EDIT_SECONDS, self._editor.edit),
            ]
            try:
                rate = (float(os.environ.get("RATE", "0")) or self._capacity()) * _SHARE
                print(f"{rate:.0f} checks a second for {minutes:g} minutes", flush=True)
                self._stop.wait(EDIT_SECONDS)
                self._editor.begin_anew()
                beside.append(pool.submit(self._every, _SAMPLE_SECONDS, self._sample))
                begun, used = time.monotonic(), self._server.cpu_seconds()
                for period in self._load(rate, minutes * 60).periods():
                    now = self._server.cpu_seconds()
                    rows.append((period, (now - used) / max(period.sent, 1)))
                    used = now
                    print(_line(*rows[-1], self._samples), flush=True)
            finally:
                self._stop.set()
            for each in beside:
                each.result()
        self._server.end()
        return self._judge(minutes, rate, rows, begun)

    def _load(self, rate: float, seconds: float, period_seconds: float = 60) -> OpenLoad:
        return OpenLoad(
            program=self._programs[PROGRAM],
            port=self._server.port,
            messages=self._folder / "checks",
            rate=rate,
            seconds=seconds,
            period_seconds=period_seconds,
        )

    def _every(self, seconds: float, act: Callable[[], None]) -> None:
        while not self._stop.wait(seconds):
            act()

    def _turn(self) -> None:
        self._issuer.turn()
        self._write_checks()

    def _sample(self) -> None:
        self._samples.append(take_sample(self._server.process.pid))

    def _write_checks(self) -> None:
        """Write what is asked from now on; whole or not at all."""
        every = checks(self._issuer, self._dice, _CHECKS_PER_TURN)
        for name, with_answer in (("checks.closed", False), ("checks", True)):
            new = self._folder / "checks.new"
            new.write_bytes(in_one_file(every, with_answer=with_answer))
            new.replace(self._folder / name)

    def _capacity(self) -> float:
        """Return the highest rate that is sustained."""
        asked = put_under_varied_load(
            self._programs[_CLOSED],
            self._server.port,
            self._folder / "checks.closed",
            _WARM_UP_SECONDS,
            cpu_seconds=self._server.cpu_seconds,
        ).rate
        return highest_sustained(asked, self._is_sustained)

    def _is_sustained(self, rate: float) -> bool:
        # What a step before this one left behind is not its fault.
        self._stop.wait(_REST_SECONDS)
        failed = dict(failures(self._load(rate, STEP_SECONDS, STEP_SECONDS).periods()))
        print(f"{rate:.0f} checks a second: not decided rightly: {failed or 'none'}", flush=True)
        return not failed

    def _judge(
        self, minutes: float, rate: float, rows: list[tuple[Period, float]], begun: float
    ) -> dict[str, Any]:
        periods = [period for period, _ in rows]
        failed = dict(failures(periods))
        is_judged = minutes >= _JUDGED_MINUTES
        before = _SETTLED_SECONDS if is_judged else 0.0
        every, main = (
            slope([each for each in by(self._samples, begun) if each[0] > before])
            for by in (by_minute, main_by_minute)
        )
        verified = subprocess.run(
            [
                *_program(),
                "audit",
                "verify",
                str(self._folder / "audit"),
                "--key",
                self._verifier_key,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        is_flat = every is not None and every.megabytes_an_hour < _SLOPE_LIMIT
        return {
            "minutes": minutes,
            "server": os.environ.get("SERVER", _SERVER),
            "checks_a_second": round(rate),
            "share_of_capacity": _SHARE,
            "checks": sum(each.sent for each in periods),
            "decided": sum(each.decided for each in periods),
            "failed": failed,
            "edits": self._editor.edits,
            "edits_refused": self._editor.refused,
            "edit_faults": self._editor.faults,
            "key_rotations": self._issuer.rotations,
            "slope": every and asdict(every),
            "slope_of_main_process": main and asdict(main),
            "slope_limit": _SLOPE_LIMIT,
            "is_slope_judged": is_judged,
            "verify_exit_code": verified.returncode,
            "verify": verified.stdout.replace(str(self._folder), "").strip().splitlines()[-12:],
            "per_minute": [
                {**asdict(period), "cpu_microseconds": round(cpu * 1e6)} for period, cpu in rows
            ],
            "memory": [[round(x), round(y, 1)] for x, y in by_minute(self._samples, begun)],
            "resident_megabytes": [round(each.resident) for each in self._samples[::12]],
            "met": not failed
            and not self._editor.faults
            and verified.returncode == 0
            and (is_flat or not is_judged),
        }


def _line(period: Period, cpu: float, samples: list[Sample]) -> str:
    failed = dict(failures([period]))
    waits = period.decisions
    memory = f"{samples[-1].proportional:.1f}" if samples else "?"
    return (
        f"minute {period.number}: {period.decided} decided, not: {failed} {period.message}; "
        f"p50 {waits.median} p99 {waits.p99} longest {waits.longest} ms; {memory} MB; "
        f"{cpu * 1e6:.0f} us"
    )


def _program() -> list[str]:
    return [str(Path(sys.executable).with_name("meshwarden"))]


if __name__ == "__main__":
    sys.exit(main())
