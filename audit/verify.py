"""Is the record as it was written? Every line is read, every break is named.

Found and located: a changed byte (the line does not hold its own hash), a line
left out, moved or repeated (`seq` and `prev` do not follow), a segment that is
missing, cut short, renamed or from another log. Not to be found by a chain alone:
lines cut off the very end, or a log written anew from its first line; those are found
by signed checkpoints, where there are any.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from audit.beginning import Beginning, find_beginning
from audit.chain import (
    COMPRESSED,
    GENESIS_HASH,
    Line,
    list_segments,
    parse_line,
    read_raw_lines,
    segment_number,
)
from audit.checkpoint_check import CheckpointCheck
from audit.compressing import digest_fault
from audit.errors import AuditReadError, DamagedLineError
from audit.folder_lock import is_being_written
from audit.logs import worker_of
from audit.record import EventName, Kind
from audit.segment_scan import ChainedSegment
from audit.signed_note import NoteVerifier

_MAX_PROBLEMS: Final = 1000  # BUDGET: problems kept in a report; all are counted
_ATTEMPTS: Final = 5  # BUDGET: walks that segments may go from under
_DECISION_ID = re.compile(rb'"decision_id":"([0-9A-Za-z-]{1,64})"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One break: where it is and what is wrong. `line` counts from 1, 0 means the file.

    `is_unsigned`: the lines are chained, but who signs for them is not known.
    """

    file: str
    line: int
    what: str
    seq: int | None = None
    decision_id: str = ""
    is_unsigned: bool = False

    def __str__(self) -> str:
        """Return `file:line: what (seq N, decision ID)`, of a file as a whole without a line."""
        names = [f"seq {self.seq}"] if self.seq is not None else []
        names += [f"decision {self.decision_id}"] if self.decision_id else []
        tail = f" ({', '.join(names)})" if names else ""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.what}{tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was read and what is wrong with it. `problems` holds the first thousand.

    `checkpoints` counts those whose root is that of the lines, `signed_lines` what they cover;
    `removed_lines` are those before the first, which retention removed. `signed_by` tells whose key
    (`NAME+KEYID`) first signed for which lines, from and to, where keys were given. Of the problems
    `unsigned_count` are none of the lines themselves: nobody is known who signed for some.
    """

    path: str
    segments: int
    lines: int
    decisions: int
    events: int
    first_at: str
    last_at: str
    last_seq: int
    last_hash: str
    problem_count: int
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    checkpoints: int = 0
    signed_lines: int = 0
    removed_lines: int = 0
    unsigned_count: int = 0
    signed_by: tuple[tuple[str, int, int], ...] = ()

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    @property
    def verdict(self) -> str:
        """What is true of it, in a few words."""
        places = "1 place" if self.problem_count == 1 else f"{self.problem_count} places"
        if self.is_only_unsigned:
            signed = f"signed up to line {self.signed_lines}" if self.signed_lines else "unsigned"
            return f"chain intact, {signed}, SIGNATURES MISSING in {places}"
        return "intact" if self.intact else f"BROKEN in {places}"

    @property
    def is_only_unsigned(self) -> bool:
        """Whether all that is wrong is that nobody is known who signed for some of the lines."""
        return 0 < self.problem_count == self.unsigned_count


@dataclass(slots=True)
class _Walk:
    """Where the reading stands: what the next line must be, and what was found so far."""

    next_seq: int | None = 1
    next_prev: str | None = GENESIS_HASH
    log_id: str | None = None
    lines: int = 0
    decisions: int = 0
    events: int = 0
    first_at: str = ""
    last_at: str = ""
    last_hash: str = ""
    last_event: str = ""
    problem_count: int = 0
    unsigned_count: int = 0
    problems: list[Problem] = field(default_factory=list)
    signed: CheckpointCheck = field(default_factory=CheckpointCheck)
    on_decision: Callable[[str], None] | None = None
    chained: Mapping[Path, ChainedSegment] = field(default_factory=dict)
    beginning: Beginning | None = None

    def report(self, problem: Problem) -> None:
        """Count a problem, and keep it while there is room."""
        self.problem_count += 1
        self.unsigned_count += problem.is_unsigned
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)


def verify_folder(
    path: Path,
    *,
    verifier: NoteVerifier | None = None,
    kept: Iterable[Path] = (),
    on_decision: Callable[[str], None] | None = None,
    chained: Mapping[Path, ChainedSegment] = MappingProxyType({}),
) -> VerifyReport:
    """Return what is true of a folder of segments, or of one segment on its own.

    The checkpoints beside the segments, and those `kept` elsewhere, are compared with
    the lines; with a `verifier` their signatures are checked, and there must be one. That of an
    instance holds for each of its workers.
    `on_decision` is given the id of each decision on record. `chained` are segments that were
    read already, by their absolute paths, and had no fault of their own: of these it is asked
    only how they follow each other and whether their lines are those that were signed.

    Raises:
        AuditReadError: the path holds no segment, or cannot be read.
    """
    if verifier is not None:
        verifier = verifier.of_worker(worker_of(path if path.is_dir() else path.parent))
    for attempt in range(1, _ATTEMPTS + 1):
        walk = _Walk(signed=CheckpointCheck(verifier), on_decision=on_decision, chained=chained)
        try:
            there = _written_names(path)
            report = _walked(path, tuple(kept), walk)
            is_last = attempt == _ATTEMPTS
            if is_last or not _may_be_growth(report) or _written_names(path) == there:
                return report
        except FileNotFoundError as exc:
            # A segment may be compressed or removed while the log is read.
            if attempt == _ATTEMPTS:
                raise AuditReadError(f"`{path}` cannot be read: {exc.strerror}") from exc
        except OSError as exc:
            raise AuditReadError(f"`{path}` cannot be read: {exc.strerror}") from exc
    raise AssertionError("the last attempt returns or raises")


def _walked(path: Path, kept: Iterable[Path], walk: _Walk) -> VerifyReport:
    """Read it all, once.

    Raises:
        AuditReadError: the path holds no segment.
        OSError: it cannot be read.
    """
    segments = _find_segments(path)
    if path.is_file():
        walk.next_seq = walk.next_prev = None  # what came before is not here to be asked
    else:
        _load_checkpoints(path, kept, segments[0][0], walk)
        _begin(path, segments[0][0], walk)
        _check_numbers(segments, walk)
    for number, file in segments:
        _check_digest(file, walk)
        if not _take_chained(number, file, walk):
            _verify_segment(number, file, walk)
        walk.signed.end_segment(number, is_last=file == segments[-1][1])
    if path.is_dir():
        last_seq = (walk.next_seq or 1) - 1
        walk.signed.finish(has_stopped=walk.last_event == "stop", last_seq=last_seq)
    for fault in walk.signed.faults:
        walk.report(
            Problem(file=fault.file, line=0, what=fault.what, is_unsigned=fault.is_unsigned)
        )
    _check_beginning(segments[0][1], walk)
    notes = _notes(path, segments, walk)
    return VerifyReport(
        path=str(path),
        segments=len(segments),
        lines=walk.lines,
        decisions=walk.decisions,
        events=walk.events,
        first_at=walk.first_at,
        last_at=walk.last_at,
        last_seq=(walk.next_seq or 1) - 1,
        last_hash=walk.last_hash,
        problem_count=walk.problem_count,
        problems=tuple(walk.problems),
        notes=notes,
        checkpoints=walk.signed.matched,
        signed_lines=walk.signed.signed_lines,
        removed_lines=_removed_lines(walk),
        unsigned_count=walk.unsigned_count,
        signed_by=tuple(walk.signed.spans),
    )


def _written_names(path: Path) -> frozenset[str]:
    """Return what stands in the folder of a log that is being written; nothing of any other."""
    is_written = path.is_dir() and is_being_written(path)
    return frozenset(each.name for each in path.iterdir()) if is_written else frozenset()


def _may_be_growth(report: VerifyReport) -> bool:
    """Whether all that is wrong may come of a segment that was sealed, or went, meanwhile."""
    return not report.intact and all(each.line == 0 for each in report.problems)


def _load_checkpoints(folder: Path, kept: Iterable[Path], first: int, walk: _Walk) -> None:
    """Take the checkpoints before any line is read: a log that is written may grow meanwhile."""
    walk.signed.load_folder(folder, first)
    for file in kept:
        walk.signed.load_kept(file)


def _find_segments(path: Path) -> list[tuple[int, Path]]:
    if path.is_file():
        return [(segment_number(path.name) or 0, path)]
    if not path.is_dir():
        raise AuditReadError(f"`{path}` is no file and no folder")
    segments = list_segments(path)
    if not segments:
        raise AuditReadError(f"`{path}` holds no audit log: no file `audit-00000001.jsonl`")
    return segments


def _begin(folder: Path, first: int, walk: _Walk) -> None:
    """Begin where the log begins: after segments that were retained away, where that is vouched."""
    walk.beginning = find_beginning(folder, first, walk.signed.of_segment(first - 1))
    if walk.beginning is not None:
        walk.next_seq, walk.next_prev = walk.beginning.tree.size + 1, None
        walk.signed.begin(walk.beginning.tree)


def _removed_lines(walk: _Walk) -> int:
    return walk.beginning.tree.size if walk.beginning is not None else 0


def _check_beginning(first: Path, walk: _Walk) -> None:
    fault = walk.beginning.fault() if walk.beginning is not None else ""
    if fault:
        walk.report(Problem(file=first.name, line=0, what=fault))


def _check_digest(path: Path, walk: _Walk) -> None:
    """Report a compressed segment whose bytes are not those that were written."""
    fault = digest_fault(path) if path.name.endswith(COMPRESSED) else ""
    if fault:
        walk.report(Problem(file=path.name, line=0, what=fault))


def _check_numbers(segments: list[tuple[int, Path]], walk: _Walk) -> None:
    """Report numbers that are missing from the row of segments."""
    expected = 1 if walk.beginning is None else segments[0][0]
    for number, path in segments:
        if number > expected:
            missing = f"{expected}" if number == expected + 1 else f"{expected} to {number - 1}"
            walk.report(
                Problem(file=path.name, line=0, what=f"missing before it: segment {missing}")
            )
        expected = number + 1


def _take_chained(number: int, path: Path, walk: _Walk) -> bool:
    """Take a segment that was read already, where nothing is amiss between it and the walk."""
    known = walk.chained.get(path.absolute())
    if known is None or walk.on_decision is not None:
        return False
    expected = (
        number,
        walk.next_seq,
        known.prev if walk.next_prev is None else walk.next_prev,
        walk.log_id or known.log_id,
    )
    if expected != (known.number, known.first_seq, known.prev, known.log_id):
        return False
    if not walk.signed.take_segment(known):
        return False
    if walk.beginning is not None:
        walk.beginning.take_segment(known)
    walk.next_seq, walk.next_prev, walk.log_id = known.last_seq + 1, known.last_hash, known.log_id
    walk.lines += known.lines
    walk.decisions += known.decisions
    walk.events += known.events
    walk.last_hash, walk.last_event = known.last_hash, known.last_event
    walk.first_at, walk.last_at = walk.first_at or known.first_at, known.last_at or walk.last_at
    return True


def _verify_segment(number: int, path: Path, walk: _Walk) -> None:
    place = 0
    for place, raw in enumerate(read_raw_lines(path), start=1):
        walk.lines += 1
        walk.signed.take(raw)
        try:
            line = parse_line(raw)
        except DamagedLineError as exc:
            _report_damage(path.name, place, raw, exc.why, walk)
            continue
        wrong = _header_faults(number, place, line, walk) + _order_faults(line, walk)
        if wrong:
            walk.report(
                Problem(
                    file=path.name,
                    line=place,
                    what="; ".join(wrong),
                    seq=line.seq,
                    decision_id=str(line.document.get("decision_id", "")),
                )
            )
        _count(line, walk)
        if walk.beginning is not None:
            walk.beginning.take(line)
    if place == 0:
        walk.report(Problem(file=path.name, line=0, what="the segment is empty"))


def _report_damage(file: str, place: int, raw: bytes, why: str, walk: _Walk) -> None:
    """Report a damaged line by what can still be known of it, and go on after it."""
    found = _DECISION_ID.search(raw)
    walk.report(
        Problem(
            file=file,
            line=place,
            what=why,
            seq=walk.next_seq,
            decision_id=found[1].decode("ascii") if found else "",
        )
    )
    walk.next_prev = None
    if walk.next_seq is not None:
        walk.next_seq += 1


def _header_faults(number: int, place: int, line: Line, walk: _Walk) -> list[str]:
    """Return what is wrong with a segment's first line, or with a header that is no first line."""
    document = line.document
    is_header = document.get("kind") == Kind.SEGMENT
    if place > 1:
        return ["a segment's header in the middle of a segment"] if is_header else []
    if not is_header:
        return ["the segment does not begin with its header"]
    faults = []
    if number and document.get("segment") != number:
        faults.append(f"the header is that of segment {document.get('segment')}")
    log_id = str(document.get("log_id"))
    if walk.log_id not in (None, log_id):
        faults.append("the segment belongs to another log")
    walk.log_id = walk.log_id or log_id
    return faults


def _order_faults(line: Line, walk: _Walk) -> list[str]:
    """Return how the line does not follow the one before it, and what must follow it."""
    expected, prev = walk.next_seq, walk.next_prev
    if expected is not None and line.seq < expected:
        return [f"out of order or repeated: expected seq {expected}"]
    faults = []
    if expected is not None and line.seq > expected:
        missing = f"{expected}" if line.seq == expected + 1 else f"{expected} to {line.seq - 1}"
        faults.append(f"missing before it: seq {missing}")
    if prev is not None and line.prev != prev:
        faults.append("`prev` is not the hash of the line before it")
    walk.next_seq, walk.next_prev = line.seq + 1, line.hash
    return faults


def _count(line: Line, walk: _Walk) -> None:
    document: dict[str, Any] = line.document
    kind = document.get("kind")
    walk.decisions += kind == Kind.DECISION
    walk.events += kind == Kind.EVENT
    walk.last_event = str(document.get("event", ""))
    walk.last_hash = line.hash
    if walk.on_decision is not None:
        walk.on_decision(_decision_id(document))
    at = document.get("decided_at") or document.get("at") or document.get("created_at")
    if isinstance(at, str):
        walk.first_at = walk.first_at or at
        walk.last_at = at


def _decision_id(document: dict[str, Any]) -> str:
    """Return the decision a line is about, also where only a fault could be written of it."""
    details = document.get("details")
    kept = details if document.get("event") == EventName.RECORD_FAULT else document
    return str(kept.get("decision_id", "")) if isinstance(kept, dict) else ""


def _notes(path: Path, segments: list[tuple[int, Path]], walk: _Walk) -> tuple[str, ...]:
    """Return what a reader should know though it is no break."""
    folder = path if path.is_dir() else path.parent
    notes = []
    if path.is_file():
        notes.append("one segment only: what came before it and after it was not looked at")
    elif walk.signed.is_wanted or walk.signed.verifier is not None:
        notes.extend(walk.signed.notes(_removed_lines(walk) + walk.lines))
    if walk.beginning is not None:
        notes.append(
            f"it begins after segment {walk.beginning.number}: what came before, "
            f"{_removed_lines(walk)} lines, was removed by retention"
        )
    if is_being_written(folder):
        notes.append("the log is being written: a last line without its end may be on its way")
    elif walk.last_event != "stop" and segments:
        notes.append(
            "the log does not end with `stop`: the writer was killed, or the end was cut off"
        )
    torn = sorted(file.name for file in folder.glob("audit-*.torn"))
    notes.extend(f"`{name}` holds the bytes of a line that was never finished" for name in torn)
    return tuple(notes)
