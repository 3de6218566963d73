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
from audit.errors import CheckpointError, UnknownSignerError
from audit.folder_lock import is_being_written
from audit.frontier_check import FrontierCheck
from audit.merkle import Frontier
from audit.segment_scan import ChainedSegment
from audit.signed_note import NoteVerifier
from audit.signing_gaps import Gap, joined, says_ended

_NAME: Final = re.compile(r"audit-([0-9]{8})\.checkpoint", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a checkpoint, or with the lines it covers.

    `is_unsigned`: the lines are as they are chained, only who signs for them is not known.
    """

    file: str
    what: str
    is_unsigned: bool = False


@dataclass(slots=True)
class CheckpointCheck:
    """The checkpoints of one walk through a log. Load them before the first line is read."""

    verifier: NoteVerifier | None = None
    faults: list[Fault] = field(default_factory=list)
    matched: int = 0
    signed_lines: int = 0
    spans: list[tuple[str, int, int]] = field(default_factory=list)
    _gaps: list[Gap] = field(default_factory=list)
    _ended_notes: list[str] = field(default_factory=list)
    _unknown: set[int] = field(default_factory=set)
    _signers: dict[str, str] = field(default_factory=dict)
    _folder: Path | None = None
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
        self._folder = folder
        self._frontiers.load_folder(folder, first - 1)
        for path in sorted(folder.iterdir()):
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) >= first - 1:
                there.add(int(found[1]))
                checkpoint = self._load(path, path.name)
                if checkpoint is not None:
                    self._of_segment[int(found[1])] = checkpoint
                else:
                    self._unknown.add(int(found[1]))
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
            is_wanted = number not in self._unknown and number > min(self._of_segment)
            if is_wanted and not is_last:
                self._gaps.append(Gap(number, number, begin, end))
        elif not self._has_broken and checkpoint.size <= begin:
            what = f"it covers {checkpoint.size} lines, the segment begins after {begin}"
            self._fault(checkpoint_name(number), what)
        elif not self._has_broken and not is_last and checkpoint.size < end:
            self._gaps.append(Gap(number, number, checkpoint.size, end))
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
        self._judge_gaps()
        self._frontiers.miss_newest(has_stopped=has_stopped, last_seq=last_seq)
        self.faults += [Fault(file, what) for file, what in self._frontiers.faults]
        is_sealed = not self._is_first_open
        if self.verifier is not None and not self._by_size and not self.faults and is_sealed:
            what = "no segment has a checkpoint to check with the key"
            self._fault(checkpoint_name(1), what, is_unsigned=True)

    def _judge_gaps(self) -> None:
        """Tell of sealed segments that nobody signed for: that it was said, or that it was not.

        Raises:
            OSError: the log cannot be read.
        """
        for gap in joined(self._gaps):
            is_covered = gap.end <= self.signed_lines
            what = f"{gap} are not signed, the chain alone holds them"
            if is_covered:
                later = min(size for size in self._by_size if size >= gap.end)
                what = f"{gap} were not signed at the time, but as they stood at line {later}"
            is_said = self._folder is not None and says_ended(self._folder, gap.begin)
            if is_said and gap.begin <= self.signed_lines and gap.begin in self._by_size:
                what = f"{what}: a signed `signing_ended` at line {gap.begin} says so"
                if is_covered:
                    self._ended_notes.append(what)
                    continue
            else:
                what = (
                    f"{what}, and no signed `signing_ended` says why: signing was switched off, "
                    "or checkpoints were taken away"
                )
            self._fault(checkpoint_name(gap.first), what, is_unsigned=True)

    def notes(self, lines: int) -> Sequence[str]:
        """Return what a reader should know about what the checkpoints cover."""
        if not self._by_size:
            none = "no good checkpoint" if self.faults else "no checkpoint"
            return [f"{none}: that the log was not written anew cannot be shown"]
        found = list(self._ended_notes)
        if self.verifier is None:
            found.append("signatures of checkpoints were not checked: no verifier key was given")
        if self.signed_lines < lines:
            is_ended = self._folder is not None and says_ended(self._folder, self.signed_lines)
            why = ": signing was ended" if is_ended else " yet"
            found.append(f"the last {lines - self.signed_lines} lines are not signed{why}")
        return found

    def _load(self, path: Path, file: str) -> Checkpoint | None:
        try:
            note = path.read_bytes()
            checkpoint = read_checkpoint(note, self.verifier)
        except CheckpointError as exc:
            is_unsigned = isinstance(exc, UnknownSignerError)
            self._fault(file, str(exc), is_unsigned=is_unsigned)
            return None
        if self.verifier is not None:
            self._signers[file] = self.verifier.signer_of(note)
        self._by_size.setdefault(checkpoint.size, []).append((file, checkpoint))
        return checkpoint

    def _compare(self, file: str, checkpoint: Checkpoint) -> None:
        if self._tree.root() == checkpoint.root:
            self.matched += 1
            self._note_signer(file, checkpoint.size)
            self.signed_lines = checkpoint.size
        elif not self._has_broken:
            # Every later root differs with this one: the first says where.
            self._has_broken = True
            begin = self.signed_lines + 1
            self._fault(
                file, f"lines {begin} to {checkpoint.size} of the log are not those signed for"
            )

    def _note_signer(self, file: str, size: int) -> None:
        """Note whose key signed first for the lines up to `size`."""
        signer = self._signers.get(file)
        if signer is None or size <= self.signed_lines:
            return
        begin = self.signed_lines + 1
        if self.spans and self.spans[-1][0] == signer:
            begin = self.spans.pop()[1]
        self.spans.append((signer, begin, size))

    def _fault(self, file: str, what: str, *, is_unsigned: bool = False) -> None:
        self.faults.append(Fault(file, what, is_unsigned))
