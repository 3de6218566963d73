"""Are the frontiers beside the checkpoints those of the tree of the lines?

A frontier is what a tree goes on from, after a restart and after a beginning that was
retained away. It is judged at its own size: a process may end between writing a frontier and
signing the checkpoint beside it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit.checkpoint_files import checkpoint_name, frontier_bytes, frontier_name, parse_frontier
from audit.errors import CheckpointError
from audit.merkle import Frontier

_NAME: Final = re.compile(r"audit-([0-9]{8})\.frontier", re.ASCII)


@dataclass(slots=True)
class FrontierCheck:
    """The frontiers of one walk through a log; faults are (file, what) pairs."""

    faults: list[tuple[str, str]] = field(default_factory=list)
    _open: dict[int, Frontier] = field(default_factory=dict)
    _there: set[int] = field(default_factory=set)
    _sizes: dict[int, int] = field(default_factory=dict)
    _unsigned: int = 0

    def load_folder(self, folder: Path, first: int) -> None:
        """Take the frontiers of segment `first` and those after it.

        Raises:
            OSError: the folder cannot be read.
        """
        for path in sorted(folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) >= first:
                self._there.add(int(found[1]))
                self._load(int(found[1]), path)

    def sizes(self) -> Iterator[int]:
        """Yield the sizes at which a frontier is still to be compared."""
        yield from (frontier.size for frontier in self._open.values())

    def compare(self, tree: Frontier) -> None:
        """Compare where frontiers of the tree's size stand."""
        for number, frontier in list(self._open.items()):
            if frontier.size == tree.size:
                del self._open[number]
                if frontier.peaks != tree.peaks:
                    self._fault(number, "it is not that of the lines before it")

    def end_segment(self, number: int, begin: int, end: int) -> None:
        """Report a frontier that is not of a place within its own segment's lines."""
        size = self._sizes.get(number)
        if size is not None and not begin < size <= end:
            what = f"it is of {size} lines, its segment holds those from {begin + 1} to {end}"
            self._fault(number, what)
            self._open.pop(number, None)

    def pair(self, checkpoints: set[int], folder: Path, *, is_written: bool) -> None:
        """Report what stands without the other of its pair; `checkpoints` has all that are there.

        The frontier is written first: one that `is_written` now may be about to get its checkpoint.
        """
        for number in sorted(checkpoints - self._there):
            if not (folder / frontier_name(number)).is_file():
                self._fault(number, f"it is missing beside `{checkpoint_name(number)}`")
        newest = max(self._there, default=0)
        for number in sorted(self._there - checkpoints - {newest}):
            self._miss_checkpoint(number)
        if not is_written and newest not in checkpoints:
            self._unsigned = newest

    def miss_newest(self, *, has_stopped: bool, last_seq: int) -> None:
        """Report a newest frontier that was not signed.

        Of a log that did not stop in order (`has_stopped`) it is no fault: whatever ended its
        writer did so before it could sign.
        """
        if self._unsigned and (has_stopped or self._sizes.get(self._unsigned, 0) > last_seq):
            self._miss_checkpoint(self._unsigned)

    def finish(self, tree: Frontier) -> None:
        """Report frontiers of more lines than there are."""
        for number, frontier in self._open.items():
            if frontier.size > tree.size:
                what = f"it is of {frontier.size} lines, the log holds {tree.size}"
                self._fault(number, what)

    def _miss_checkpoint(self, number: int) -> None:
        what = f"it is missing beside `{frontier_name(number)}`"
        self.faults.append((checkpoint_name(number), what))

    def _load(self, number: int, path: Path) -> None:
        raw = path.read_bytes()
        try:
            frontier = parse_frontier(raw)
        except CheckpointError as exc:
            self._fault(number, str(exc))
            return
        if raw != frontier_bytes(frontier):
            self._fault(number, "it is not written as frontiers are")
        self._open[number] = frontier
        self._sizes[number] = frontier.size

    def _fault(self, number: int, what: str) -> None:
        self.faults.append((frontier_name(number), what))
