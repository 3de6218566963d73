"""The checkpoints beside the segments: written by the writer, taken up again at start.

Theory of operation. The tree grows by the bytes that were handed to the disk, not
by those read back from it: a line changed on disk between writing and sealing does
not fit the signed root. Beside `audit-N.checkpoint` stands `audit-N.frontier`, from
which the tree goes on after a restart; it is believed only where its root is the
one that was signed.
"""

from __future__ import annotations

import json
from pathlib import Path

from audit.chain import list_segments, read_raw_lines
from audit.checkpoint import Checkpoint, read_checkpoint
from audit.errors import AuditFolderError, CheckpointError
from audit.merkle import Frontier
from audit.settings import AuditSettings
from audit.signed_note import NoteSigner, load_signer
from audit.whole_file import replace_file


def checkpoint_name(number: int) -> str:
    """Return the file name of a segment's checkpoint."""
    return f"audit-{number:08d}.checkpoint"


def frontier_name(number: int) -> str:
    """Return the file name of the tree's frontier at a segment's checkpoint."""
    return f"audit-{number:08d}.frontier"


def open_signer(settings: AuditSettings, node: str) -> NoteSigner | None:
    """Return who signs the checkpoints of an instance, or None where no key is configured.

    Raises:
        AuditKeyError: the key or the name cannot be used.
    """
    if settings.checkpoint_key_file is None:
        return None
    origin = settings.checkpoint_origin or f"meshwarden/{node}"
    return load_signer(settings.checkpoint_key_file, origin)


class CheckpointKeeper:
    """The tree of an open log and the key that signs it. The writer thread owns it."""

    def __init__(self, folder: Path, signer: NoteSigner) -> None:
        """Begin with the empty tree; `resume` takes up one that was begun."""
        self._folder = folder
        self._signer = signer
        self._tree = Frontier()

    def resume(self, size: int) -> None:
        """Take up the tree of the log's `size` lines: from the newest frontier, then by reading.

        Raises:
            AuditFolderError: the lines there are not as many as were written or signed.
            OSError: the folder cannot be read.
        """
        segments = list_segments(self._folder)
        numbers = [number for number, _ in segments]
        # The segment before the first one may have been retained away: its frontier stays.
        known, self._tree = self._newest([numbers[0] - 1, *numbers] if numbers else [])
        for number, path in segments:
            if number >= known:
                self._read(path, is_known=number == known)
        if self._tree.size != size:
            raise AuditFolderError(
                str(self._folder),
                f"its lines do not add up: {self._tree.size} were signed or read, the last is "
                f"seq {size}; verify the log, then keep it elsewhere and begin a new one",
            )

    def take(self, lines: list[bytes]) -> None:
        """Put lines (with their ends) into the tree, once they are committed."""
        for line in lines:
            self._tree.add(line[:-1])

    def seal(self, number: int) -> None:
        """Sign the tree as it stands, for segment `number`, whose lines are on the disk.

        Raises:
            OSError: the files cannot be written; it may be tried again.
        """
        tree = self._tree
        checkpoint = Checkpoint(self._signer.name, tree.size, tree.root())
        replace_file(self._folder / frontier_name(number), frontier_bytes(tree))
        replace_file(self._folder / checkpoint_name(number), self._signer.sign(str(checkpoint)))

    def _newest(self, numbers: list[int]) -> tuple[int, Frontier]:
        """Return the newest segment whose frontier was signed by this key, and that frontier."""
        for number in reversed(numbers):
            try:
                note = (self._folder / checkpoint_name(number)).read_bytes()
                checkpoint = read_checkpoint(note, self._signer.verifier)
                frontier = parse_frontier((self._folder / frontier_name(number)).read_bytes())
            except (FileNotFoundError, CheckpointError):
                continue
            if (frontier.size, frontier.root()) == (checkpoint.size, checkpoint.root):
                return number, frontier
        return self._before(numbers[0]) if numbers else (0, Frontier())

    def _before(self, number: int) -> tuple[int, Frontier]:
        """Return the tree of what was retained away up to a segment, by whatever key it was signed.

        WHY believed: those lines cannot be read again, and a log goes on after its key or its name
        was changed. Who verifies it needs the key of then as well.
        """
        try:
            note = (self._folder / checkpoint_name(number)).read_bytes()
            checkpoint = read_checkpoint(note, None)
            frontier = parse_frontier((self._folder / frontier_name(number)).read_bytes())
        except (FileNotFoundError, CheckpointError):
            return 0, Frontier()
        is_told = (frontier.size, frontier.root()) == (checkpoint.size, checkpoint.root)
        return (number, frontier) if is_told else (0, Frontier())

    def _read(self, path: Path, *, is_known: bool) -> None:
        """Put a segment's lines into the tree, but for those it holds already."""
        skip = 0
        for place, raw in enumerate(read_raw_lines(path)):
            if place == 0 and is_known:
                skip = self._tree.size + 1 - _first_seq(raw, path)
            if place >= skip:
                self._tree.add(raw.removesuffix(b"\n"))


def _first_seq(raw: bytes, path: Path) -> int:
    try:
        seq = json.loads(raw)["seq"]
    except (ValueError, LookupError, TypeError, RecursionError) as exc:
        raise AuditFolderError(str(path.parent), f"the header of `{path.name}` is damaged") from exc
    return seq if type(seq) is int else 0


def frontier_bytes(tree: Frontier) -> bytes:
    """Return a frontier as it stands in its file."""
    peaks = [peak.hex() for peak in tree.peaks]
    return json.dumps({"size": tree.size, "peaks": peaks}).encode() + b"\n"


def parse_frontier(raw: bytes) -> Frontier:
    """Return the frontier in a file's bytes.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        document = json.loads(raw)
        found = Frontier(int(document["size"]), [bytes.fromhex(each) for each in document["peaks"]])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise CheckpointError("the frontier is damaged") from exc
    if found.size < 0 or len(found.peaks) != found.size.bit_count():
        raise CheckpointError("the frontier is damaged")
    return found
