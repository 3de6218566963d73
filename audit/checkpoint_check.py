"""Do the lines of a log have the Merkle roots that were signed for them?

A chain shows that lines follow each other; whoever can write the files can write a
whole chain anew. The signed roots show that it is the same log, up to the last
checkpoint, and one kept elsewhere shows that none of the newest was taken away.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from audit.chain import list_segments
from audit.checkpoint import Checkpoint, read_checkpoint
from audit.checkpoint_files import checkpoint_name
from audit.errors import CheckpointError
from audit.folder_lock import is_being_written
from audit.frontier_check import FrontierCheck
from audit.merkle import Frontier
from audit.segment_scan import ChainedSegment
from audit.signed_note import NoteVerifier

_NAME: Final = re.compile(r"audit-([0-9]{8})\.checkpoint", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a checkpoint, or with the lines it covers."""

    file: str
    what: str


@dataclass(slots=True)
class CheckpointCheck:
    """The checkpoints of one walk through a log. Load them before the first line is read."""

    verifier: NoteVerifier | None = None
    faults: list[Fault] = field(default_factory=list)
    matched: int = 0
    signed_lines: int = 0
    _by_size: dict[int, list[tuple[str, Checkpoint]]] = field(default_factory=dict)
    _of_segment: dict[int, Checkpoint] = field(default_factory=dict)
    _frontiers: FrontierCheck = field(default_factory=FrontierCheck)
    _tree: Frontier = field(default_factory=Frontier)
    _has_broken: bool = False
    _is_first_open: bool = False
    _ended: int = 0

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything to check lines against."""
        return bool(self._by_size)

    def load_folder(self, folder: Path, first: int) -> None:
        """Take the checkpoints that stand beside the segments, of which `first` is the first.

        That of the segment before it vouches for a beginning that was retained away.

        Raises:
            OSError: the folder cannot be read.
        """
        there = set[int]()
        self._frontiers.load_folder(folder, first - 1)
        for path in sorted(folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) >= first - 1:
                there.add(int(found[1]))
                checkpoint = self._load(path, path.name)
                if checkpoint is not None:
                    self._of_segment[int(found[1])] = checkpoint
        is_written = is_being_written(folder)
        # Of a log whose first segment is being written nothing is signed yet.
        self._is_first_open = is_written and [number for number, _ in list_segments(folder)] == [1]
        self._frontiers.pair(there, folder, is_written=is_written)

    def of_segment(self, number: int) -> Checkpoint | None:
        """Return the checkpoint of a segment, if it is there and good."""
        return self._of_segment.get(number)

    def begin(self, tree: Frontier) -> None:
        """Begin after lines that were retained away, with the tree of these."""
        self._tree = Frontier(tree.size, list(tree.peaks))
        self._ended = tree.size
        self._by_size = {size: each for size, each in self._by_size.items() if size >= tree.size}
        self._compare_here()

    def load_kept(self, path: Path) -> None:
        """Take a checkpoint that was kept elsewhere.

        Raises:
            OSError: it cannot be read.
        """
        self._load(path, str(path))

    def take(self, raw: bytes) -> None:
        """Put the next line into the tree and compare where a checkpoint stands."""
        if not self._by_size:
            return
        self._tree.add(raw.removesuffix(b"\n"))
        self._compare_here()

    def take_segment(self, segment: ChainedSegment) -> bool:
        """Take all lines of a segment at once; False where that cannot be.

        It cannot where a checkpoint stands amid them, or where lines before them are missing.
        """
        if not self._by_size:
            return True
        if self._tree.size != segment.first_seq - 1:
            return False
        sizes = (*self._by_size, *self._frontiers.sizes())
        if any(self._tree.size < size < segment.last_seq for size in sizes):
            return False
        for height, root in segment.trees:
            self._tree.add_tree(height, root)
        self._compare_here()
        return True

    def _compare_here(self) -> None:
        for file, checkpoint in self._by_size.get(self._tree.size, ()):
            self._compare(file, checkpoint)
        if not self._has_broken:
            self._frontiers.compare(self._tree)

    def end_segment(self, number: int, *, is_last: bool) -> None:
        """Look at a segment's own checkpoint once its last line was taken."""
        begin, self._ended = self._ended, self._tree.size
        if not self._of_segment:
            return
        checkpoint, end = self._of_segment.get(number), self._tree.size
        if checkpoint is None:
            if number > min(self._of_segment) and not is_last:
                self._fault(checkpoint_name(number), "the sealed segment's checkpoint is missing")
        elif not self._has_broken and checkpoint.size <= begin:
            what = f"it covers {checkpoint.size} lines, the segment begins after {begin}"
            self._fault(checkpoint_name(number), what)
        elif not self._has_broken and not is_last and checkpoint.size != end:
            what = f"it covers {checkpoint.size} lines, the sealed segment ends at {end}"
            self._fault(checkpoint_name(number), what)
        if not self._has_broken:
            self._frontiers.end_segment(number, begin, end)

    def finish(self, *, has_stopped: bool, last_seq: int) -> None:
        """Report what was signed and is not there; `has_stopped`: the log ends with `stop`."""
        for size in sorted(self._by_size):
            if size > self._tree.size:
                for file, _ in self._by_size[size]:
                    what = f"{size} lines were signed, the log holds {self._tree.size}: its end"
                    self._fault(file, f"{what} was cut off")
        if self._by_size and not self._has_broken:
            self._frontiers.finish(self._tree)
        self._frontiers.miss_newest(has_stopped=has_stopped, last_seq=last_seq)
        self.faults += [Fault(file, what) for file, what in self._frontiers.faults]
        is_sealed = not self._is_first_open
        if self.verifier is not None and not self._by_size and not self.faults and is_sealed:
            self._fault(checkpoint_name(1), "no segment has a checkpoint to check with the key")

    def notes(self, lines: int) -> Sequence[str]:
        """Return what a reader should know about what the checkpoints cover."""
        if not self._by_size:
            none = "no good checkpoint" if self.faults else "no checkpoint"
            return [f"{none}: that the log was not written anew cannot be shown"]
        found = []
        if self.verifier is None:
            found.append("signatures of checkpoints were not checked: no verifier key was given")
        if self.signed_lines < lines:
            found.append(f"the last {lines - self.signed_lines} lines are not signed yet")
        return found

    def _load(self, path: Path, file: str) -> Checkpoint | None:
        try:
            checkpoint = read_checkpoint(path.read_bytes(), self.verifier)
        except CheckpointError as exc:
            self._fault(file, str(exc))
            return None
        self._by_size.setdefault(checkpoint.size, []).append((file, checkpoint))
        return checkpoint

    def _compare(self, file: str, checkpoint: Checkpoint) -> None:
        if self._tree.root() == checkpoint.root:
            self.matched += 1
            self.signed_lines = checkpoint.size
        elif not self._has_broken:
            # Every later root differs with this one: the first says where.
            self._has_broken = True
            begin = self.signed_lines + 1
            self._fault(
                file, f"lines {begin} to {checkpoint.size} of the log are not those signed for"
            )

    def _fault(self, file: str, what: str) -> None:
        self.faults.append(Fault(file, what))
