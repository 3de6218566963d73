"""Checkpoints: a signed word on how many lines a log held and what their Merkle root was.

    ORIGIN
    SIZE
    BASE64(root)

as a signed note. One is written for each sealed segment (`audit-00000003.checkpoint`)
and at an orderly stop; its tree covers the whole log up to there, so that each later
checkpoint vouches for all lines before it, and one kept elsewhere shows a cut end.

Spec: C2SP tlog-checkpoint v1, tlog-proof v1.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from audit.errors import CheckpointError
from audit.merkle import HASH_BYTES, Frontier, inclusion_path, leaf_hash, root_of_path
from audit.signed_note import NoteVerifier, split_note

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_ORIGIN_LINES: Final = 3
_PROOF_HEAD: Final = "c2sp.org/tlog-proof@v1"
_MAX_PATH: Final = 63  # BUDGET: hashes of a path in a tree of at most 2**63 leaves


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`size` lines, the first of which is seq 1, have the Merkle root `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That line `seq = index + 1` is in the log of a checkpoint: its path, and the signed note."""

    index: int
    path: tuple[bytes, ...]
    note: bytes

    def to_text(self) -> str:
        """Return the proof as a text file."""
        hashes = "".join(base64.b64encode(each).decode() + "\n" for each in self.path)
        return f"{_PROOF_HEAD}\nindex {self.index}\n{hashes}\n{self.note.decode()}"

    def check(self, entry: bytes, verifier: NoteVerifier) -> Checkpoint:
        """Return the checkpoint that vouches for a line (its bytes without the line end).

        Raises:
            CheckpointError: the signature is not good, or the path does not lead to the root.
        """
        checkpoint = parse_checkpoint(verifier.check(self.note), origin=verifier.name)
        root = root_of_path(leaf_hash(entry), self.index, checkpoint.size, self.path)
        if root != checkpoint.root:
            raise CheckpointError(f"the line is not the one at seq {self.index + 1} of this log")
        return checkpoint


def parse_checkpoint(text: str, *, origin: str | None = None) -> Checkpoint:
    """Return the checkpoint in a note's text; further lines are left to others.

    Raises:
        CheckpointError: it is none, or that of another origin.
    """
    lines = text.split("\n")
    if len(lines) <= _ORIGIN_LINES or not lines[0] or not _NUMBER.fullmatch(lines[1]):
        raise CheckpointError("it is not a checkpoint")
    if origin is not None and lines[0] != origin:
        raise CheckpointError(f"it is of the origin `{lines[0]}`, expected `{origin}`")
    return Checkpoint(lines[0], int(lines[1]), _hash(lines[2]))


def read_checkpoint(note: bytes, verifier: NoteVerifier | None) -> Checkpoint:
    """Return a note's checkpoint, its signature checked where a verifier is given.

    Raises:
        CheckpointError: it is none, or its signature is not good.
    """
    if verifier is None:
        return parse_checkpoint(split_note(note)[0])
    try:
        return parse_checkpoint(verifier.check(note), origin=verifier.name)
    except CheckpointError:
        for each in verifier.former:
            with suppress(CheckpointError):
                return parse_checkpoint(each.check(note), origin=each.name)
        raise


def prove_inclusion(
    entries: Iterable[bytes], seq: int, note: bytes, *, before: Frontier | None = None
) -> InclusionProof:
    """Return the proof that line `seq` is in the log of a checkpoint; `entries` are its lines.

    `before` is the tree of lines that were retained away, where there are such.

    Raises:
        CheckpointError: the line is not covered, or the lines are not those of the checkpoint.
    """
    checkpoint = read_checkpoint(note, None)
    if not 1 <= seq <= checkpoint.size:
        raise CheckpointError(f"it covers {checkpoint.size} lines, not the one at seq {seq}")
    leaf = b""

    def watched() -> Iterable[bytes]:
        nonlocal leaf
        for place, entry in enumerate(entries, start=1 + (before.size if before else 0)):
            if place == seq:
                leaf = leaf_hash(entry)
            yield entry

    try:
        path = inclusion_path(watched(), seq - 1, checkpoint.size, before)
    except ValueError as exc:
        raise CheckpointError(f"the log does not hold the lines it covers: {exc}") from exc
    if root_of_path(leaf, seq - 1, checkpoint.size, path) != checkpoint.root:
        raise CheckpointError("the log does not hold the lines it covers: the roots differ")
    return InclusionProof(seq - 1, tuple(path), note)


def parse_proof(text: str) -> InclusionProof:
    """Return the proof in a text file.

    Raises:
        CheckpointError: it is none.
    """
    head, gap, note = text.partition("\n\n")
    lines: Sequence[str] = head.split("\n")
    number = lines[1].removeprefix("index ") if len(lines) > 1 else ""
    if not gap or lines[0] != _PROOF_HEAD or not _NUMBER.fullmatch(number):
        raise CheckpointError("it is not an inclusion proof")
    if len(lines) - 2 > _MAX_PATH:
        raise CheckpointError("its path is too long")
    return InclusionProof(int(number), tuple(_hash(line) for line in lines[2:]), note.encode())


def _hash(text: str) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise CheckpointError("a hash is not in base64") from exc
    if len(found) != HASH_BYTES:
        raise CheckpointError("a hash is not 32 bytes long")
    return found
