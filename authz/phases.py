"""The phases of a check, and how long each of them took."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import StrEnum


class Phase(StrEnum):
    """What a check does, in this order; one that is refused early has only the first ones.

    One whose answer is remembered has `RECALL` in the place of all before `RECORD`.
    """

    RECALL = "recall"
    DECODE = "decode"
    PEER = "peer"
    TOKEN = "token"  # noqa: S105 - the name of a phase
    POLICIES = "policies"
    SHADOW = "shadow"
    ANSWER = "answer"
    RECORD = "record"


EndOfPhase = Callable[[Phase], None]
"""Told when a phase ends."""


class PhaseClock:
    """When each phase of one check ended, in seconds of `time.perf_counter`."""

    __slots__ = ("begun", "ends")

    def __init__(self, begun: float) -> None:
        """Begin the first phase."""
        self.begun = begun
        self.ends: list[tuple[Phase, float]] = []

    def end(self, phase: Phase) -> None:
        """End a phase now; the next one begins."""
        self.ends.append((phase, time.perf_counter()))

    def microseconds(self) -> dict[str, int]:
        """Return how long each phase took, in their order; one that came twice counts both."""
        found: dict[str, int] = {}
        begun = self.begun
        for phase, ended in self.ends:
            found[phase] = found.get(phase, 0) + int((ended - begun) * 1e6)
            begun = ended
        return found


def look_away_from(phase: Phase) -> None:
    """Take no notice of the end of a phase."""
