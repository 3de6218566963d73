"""The policy set of a server: read at once before it serves, and beside the traffic later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from authz.interpreter import give_memory_back
from authz.pacer import Pacer
from authz.reading_process import read_apart
from authz.serving_state import ServingState
from policies.load import Inspected
from policies.mesh import Mesh
from policies.pace import Pace, no_pace
from policies.set_memory import SetMemory, Texts, read_here
from policies.snapshot import Snapshot, build_snapshot

# BUDGET: how long the workloads of before are sorted policies for, ahead of their questions.
_PREPARE_SECONDS: Final = 10.0


class PolicyReading:
    """Builds snapshots, each from what is still the same in the one before. For one thread."""

    def __init__(self) -> None:
        """Nothing was read yet, and nobody is served."""
        self.pace: Pace = no_pace
        self._memory = SetMemory(self._read)

    def begin_serving(self) -> None:
        """Build beside the traffic from now on."""
        give_memory_back()
        self.pace = Pacer()

    def snapshot(self, texts: Iterable[tuple[str, str]], mesh: Mesh) -> Snapshot:
        """Return the snapshot of `(file name, text)` pairs.

        Raises:
            LoadError: anything in any text is an error; nothing is loaded.
        """
        return build_snapshot(texts, mesh, memory=self._memory, pace=self.pace)

    def hand_over(self, before: ServingState, after: ServingState) -> None:
        """Make a state ready for the questions that are put to another one now."""
        after.prepare_for(before, self.pace, _PREPARE_SECONDS)

    def let_go(self, parts: list[object]) -> None:
        """Drop the parts of a state that serves no more, one by one.

        WHY not at once: a million objects that end together hold up every check.
        """
        while parts:
            parts.pop()
            self.pace()
        give_memory_back()

    def _read(self, texts: Texts, pace: Pace) -> Iterable[Inspected]:
        return read_here(texts, pace) if pace is no_pace else read_apart(texts, pace)
