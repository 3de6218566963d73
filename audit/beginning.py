"""A log whose first segments were retained away: where it begins, and what says so.

Three things must agree: the checkpoint of the newest segment that went, the frontier beside it,
which has the root that was signed, and a `segments_removed` event in what is left. A log whose
beginning was lost, or taken, has not all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.chain import Line
from audit.checkpoint import Checkpoint
from audit.checkpoint_files import frontier_name, parse_frontier
from audit.errors import CheckpointError
from audit.merkle import Frontier
from audit.record import EventName
from audit.segment_scan import ChainedSegment


@dataclass(slots=True)
class Beginning:
    """The beginning of a log after segment `number`: the tree there, and who told of it."""

    number: int
    tree: Frontier
    first_prev: str = ""
    _told: list[dict[str, Any]] = field(default_factory=list)

    def take(self, line: Line) -> None:
        """Look at a line: the first tells what it follows, events tell what was removed."""
        self.first_prev = self.first_prev or line.prev
        if line.document.get("event") == EventName.SEGMENTS_REMOVED:
            details = line.document.get("details")
            if isinstance(details, dict):
                self._told.append(details)

    def take_segment(self, segment: ChainedSegment) -> None:
        """Look at a segment that was read already, as at each of its lines."""
        self.first_prev = self.first_prev or segment.prev
        self._told += map(dict, segment.removals)

    def fault(self) -> str:
        """Return what does not agree, once every line was taken; empty when all does."""
        about = f"missing before it: segment {'1' if self.number == 1 else f'1 to {self.number}'}"
        numbers = [each.get("last_segment") for each in self._told]
        if not any(isinstance(each, int) and each >= self.number for each in numbers):
            return (
                f"{about}, and no `{EventName.SEGMENTS_REMOVED}` event says that they were removed"
            )
        for each in self._told:
            end = (each.get("last_seq"), each.get("last_hash"))
            if each.get("last_segment") == self.number and end != (self.tree.size, self.first_prev):
                return f"{about}, and it does not follow the end of those that were removed"
        return ""


def find_beginning(folder: Path, first: int, checkpoint: Checkpoint | None) -> Beginning | None:
    """Return the beginning of a log that starts at segment `first`; None where nothing vouches.

    `checkpoint` is that of the segment before, its signature checked where there was a key.

    Raises:
        OSError: the frontier cannot be read.
    """
    path = folder / frontier_name(first - 1)
    if first == 1 or checkpoint is None or not path.is_file():
        return None
    try:
        tree = parse_frontier(path.read_bytes())
    except CheckpointError:
        return None
    if (tree.size, tree.root()) != (checkpoint.size, checkpoint.root):
        return None
    return Beginning(first - 1, tree)


def tree_before(folder: Path, first: int) -> Frontier | None:
    """Return the tree of the lines before segment `first`, as its file tells; None: there are none.

    Raises:
        CheckpointError: the file is damaged.
        OSError: the file cannot be read.
    """
    if first == 1:
        return None
    return parse_frontier((folder / frontier_name(first - 1)).read_bytes())
