"""Who asks whether or not answers come: the program `meshwarden-open-load`, and what it tells."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.check_contest.load import CLIENT_CORE

PROGRAM = "meshwarden-open-load"


@dataclass(frozen=True, slots=True)
class Spread:
    """Milliseconds that checks waited."""

    median: float = 0.0
    p99: float = 0.0
    longest: float = 0.0

    @classmethod
    def read(cls, told: Mapping[str, float]) -> Self:
        """Return what the program told."""
        return cls(
            told["median_milliseconds"], told["p99_milliseconds"], told["longest_milliseconds"]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """What became of the checks that were sent in one span of time.

    `refused` by the authorizer, `failed` by gRPC's status, `unsent` since too many were open,
    `wrong` of those that were decided. `others` are the waits of refused and failed ones.
    """

    number: int
    sent: int
    unsent: int
    decided: int
    wrong: int
    refused: int
    failed: Mapping[str, int] = field(default_factory=dict)
    message: str = ""
    decisions: Spread
    others: Spread
    longest_late: float

    @classmethod
    def read(cls, line: str) -> Self:
        """Return what a line of the program says."""
        told: dict[str, Any] = json.loads(line)
        return cls(
            number=told["period"],
            sent=told["sent"],
            unsent=told["unsent"],
            decided=told["decided"],
            wrong=told["wrong"],
            refused=told["refused"],
            failed=told["failed"],
            message=told.get("message", ""),
            decisions=Spread.read(told["decisions"]),
            others=Spread.read(told["others"]),
            longest_late=told["longest_late_milliseconds"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """A load to be put on a port: checks a second, of the messages in a file, for so long.

    A connection has as many calls open as the server allows. Beyond that as many as are `pending`
    wait, and the rest is not sent. An Envoy would open another connection, so `connections` is
    as many as it might come to have.
    """

    program: str
    port: int
    messages: Path
    rate: float
    seconds: float
    period_seconds: float = 1.0
    timeout_seconds: float = 1.0
    connections: int = 64
    open_checks: int = 4000
    pending: int = 0

    def periods(self) -> Iterator[Period]:
        """Run it, giving each period as it ends.

        Raises:
            subprocess.CalledProcessError: the program ended with an error.
        """
        command = ["taskset", "-c", CLIENT_CORE, self.program]
        command += ["-address", f"127.0.0.1:{self.port}", "-messages", str(self.messages)]
        command += ["-rate", f"{self.rate:g}", "-seconds", f"{self.seconds:g}"]
        command += [
            "-period",
            f"{self.period_seconds:g}s",
            "-timeout",
            f"{self.timeout_seconds:g}s",
        ]
        command += ["-connections", str(self.connections), "-open", str(self.open_checks)]
        command += ["-pending", str(self.pending)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            if running.stdout is None:
                raise RuntimeError("the load has no output")
            for line in running.stdout:
                yield Period.read(line)
        if running.returncode:
            raise subprocess.CalledProcessError(running.returncode, command)


def failures(periods: Iterable[Period]) -> Counter[str]:
    """Return the checks that were not decided rightly, by what became of them."""
    found: Counter[str] = Counter()
    for each in periods:
        found.update(each.failed)
        found.update(unsent=each.unsent, wrong=each.wrong, refused=each.refused)
    return +found
