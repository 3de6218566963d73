"""What vouches for an export: a signed note of its digest, its range, and the log it was made of.

    meshwarden-export/v1
    made TIME
    format FORMAT
    reports NAME,...
    range SINCE UNTIL                         `-` where it is open
    file SHA256 BYTES NAME
    log NAME SIZE ROOT HASH VERDICT           one for each log: base64 of the Merkle root of its
                                              SIZE lines, the last line's hash, `intact` or
                                              `broken`; `-` for the root of a broken one

Spec: C2SP signed-note v1; RFC 6962 §2.1 for the root.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from audit.beginning import tree_before
from audit.chain import list_segments, read_raw_lines, segment_number
from audit.errors import CheckpointError
from audit.logs import find_logs
from audit.merkle import Frontier
from audit.segment_scan import ChainedSegment, digest_of
from audit.signed_note import NoteVerifier
from audit.time_range import TimeRange
from audit.verify import VerifyReport

SUFFIX: Final = ".manifest"
_HEAD: Final = "meshwarden-export/v1"
_FORM: Final = re.compile(
    r"made (?P<made>\S+)\nformat (?P<format>[a-z]+)\nreports (?P<reports>[a-z,-]*)\n"
    r"range (?P<since>\S+) (?P<until>\S+)\n"
    r"file (?P<digest>[0-9a-f]{64}) (?P<size>[0-9]{1,15}) (?P<name>[^\n/]+)\n"
    r"(?P<logs>(?:log [^\n]+\n)+)",
    re.ASCII,
)
_LOG: Final = re.compile(
    r"log (\S+) ([0-9]{1,18}) ([0-9A-Za-z+/=]+|-) ([0-9a-f]{64}|-) (intact|broken)", re.ASCII
)


@dataclass(frozen=True, slots=True)
class LogState:
    """A log as it was read: its lines, their Merkle root (None: it was broken), the last hash."""

    name: str
    size: int
    root: bytes | None
    last_hash: str

    def __str__(self) -> str:
        """Return the line of a manifest."""
        root = "-" if self.root is None else base64.b64encode(self.root).decode()
        verdict = "broken" if self.root is None else "intact"
        return f"log {self.name} {self.size} {root} {self.last_hash or '-'} {verdict}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is said of one exported file. `digest` is its SHA-256 in hex, `name` has no folder."""

    made: str
    format: str
    reports: tuple[str, ...]
    range: TimeRange
    digest: str
    size: int
    name: str
    logs: tuple[LogState, ...]

    def __str__(self) -> str:
        """Return the text that is signed."""
        return (
            f"{_HEAD}\nmade {self.made}\nformat {self.format}\nreports {','.join(self.reports)}\n"
            f"range {self.range.since or '-'} {self.range.until or '-'}\n"
            f"file {self.digest} {self.size} {self.name}\n{''.join(map(str, self.logs))}"
        )


def state_of(log: Path, report: VerifyReport, chained: Mapping[Path, ChainedSegment]) -> LogState:
    """Return the state of a log that was verified; `chained` are its segments that were read.

    Raises:
        OSError: a segment cannot be read.
    """
    name = state_name(log)
    if not report.intact:
        return LogState(name, report.last_seq, None, report.last_hash)
    return LogState(name, report.last_seq, _root(log, report.last_seq, chained), report.last_hash)


def read_manifest(note: bytes, verifier: NoteVerifier) -> Manifest:
    """Return the manifest in a note that the verifier's key signed.

    Raises:
        CheckpointError: the signature is not good, or the text is no manifest.
    """
    text = verifier.check(note)
    head, _, rest = text.partition("\n")
    found = _FORM.fullmatch(rest)
    if head != _HEAD or found is None:
        raise CheckpointError("it is no manifest of an export")
    since, until = (None if found[name] == "-" else found[name] for name in ("since", "until"))
    return Manifest(
        made=found["made"],
        format=found["format"],
        reports=tuple(found["reports"].split(",")),
        range=TimeRange(since, until),
        digest=found["digest"],
        size=int(found["size"]),
        name=found["name"],
        logs=tuple(_parse_log(line) for line in found["logs"].splitlines()),
    )


def check_file(manifest: Manifest, file: Path) -> str:
    """Return what is wrong with an exported file, or nothing.

    Raises:
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    if size != manifest.size:
        return f"it is {size} bytes long, {manifest.size} were signed"
    if digest_of(file) != manifest.digest:
        return "its bytes are not those that were signed"
    return ""


def check_log(manifest: Manifest, log: Path) -> list[str]:
    """Return what is wrong with a log beside the state it had: lines of then that are not there.

    Raises:
        AuditReadError: there is no log.
        OSError: it cannot be read.
    """
    there = {state_name(each): each for each in find_logs(log)}
    faults = []
    for state in manifest.logs:
        if state.root is None:
            faults.append(f"`{state.name}` was broken when it was exported")
        elif (found := there.get(state.name)) is None and len(manifest.logs) > 1:
            faults.append(f"`{state.name}` is not there")
        elif _root(found or log, state.size, {}) != state.root:
            faults.append(f"`{state.name}` does not hold the {state.size} lines it had")
    return faults


def state_name(log: Path) -> str:
    """Return the name that a log has in a manifest: its folder's, without signs that separate."""
    return re.sub(r"[^\x21-\x7e]", "_", log.absolute().name) or "_"


def _root(log: Path, size: int, chained: Mapping[Path, ChainedSegment]) -> bytes | None:
    """Return the Merkle root of a log's first lines, or None where it has not as many."""
    files = _files(log)
    tree = _tree_before(log, files[0])
    for file in files:
        known = chained.get(file)
        if known is not None and tree.size == known.first_seq - 1 and known.last_seq <= size:
            for height, root in known.trees:
                tree.add_tree(height, root)
            continue
        for raw in read_raw_lines(file):
            if tree.size == size:
                return tree.root()
            tree.add(raw.removesuffix(b"\n"))
    return tree.root() if tree.size == size else None


def _tree_before(log: Path, first: Path) -> Frontier:
    """Return the tree of the lines before a log begins: empty, unless retention removed some.

    Raises:
        CheckpointError: it is damaged.
        OSError: it cannot be read.
    """
    number = segment_number(first.name) or 1
    return (tree_before(log, number) if log.is_dir() else None) or Frontier()


def _files(log: Path) -> Sequence[Path]:
    return [log] if log.is_file() else [file.absolute() for _, file in list_segments(log)]


def _parse_log(line: str) -> LogState:
    found = _LOG.fullmatch(line)
    if found is None:
        raise CheckpointError("it is no manifest of an export")
    name, size, root, last_hash, verdict = found.groups()
    try:
        decoded = base64.b64decode(root, validate=True) if verdict == "intact" else None
    except (binascii.Error, ValueError) as exc:
        raise CheckpointError("a root is not in base64") from exc
    return LogState(name, int(size), decoded, "" if last_hash == "-" else last_hash)
