"""The files of a log: numbered segments in one folder, appended to by one writer.

Theory of operation. What is committed is known by size: `append` writes whole
lines after the committed size, forces them to the disk as the policy says, and
only then moves the size and the chain forward. When anything fails, the file is
cut back to the committed size and the chain has not moved, so the same documents
can be tried again later and no line is ever half there or there twice.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from audit.chain import (
    MAX_LINE_BYTES,
    ChainState,
    link_line,
    link_text,
    list_segments,
    parse_line,
    read_raw_lines,
    segment_name,
)
from audit.checkpoint_files import CheckpointKeeper
from audit.document import SegmentDocument, format_time
from audit.errors import AuditFolderError, DamagedLineError
from audit.folder_lock import FolderLock
from audit.mould import Rendered
from audit.record import SCHEMA_VERSION, Kind
from audit.segment_tail import resume_segment
from audit.signed_note import NoteSigner
from audit.whole_file import sync_folder

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE: Final = 0o640


class SegmentFolder:
    """The open log of one folder. Not thread-safe: the writer thread owns it."""

    def __init__(  # noqa: PLR0913 - what opens a log, each by name
        self,
        folder: Path,
        *,
        max_bytes: int,
        node: str,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        signer: NoteSigner | None = None,
        max_age_seconds: float = math.inf,
    ) -> None:
        """Lock the folder and find the chain's end; `resumed` says what was found amiss there.

        A segment is closed at `max_bytes`, or once it is `max_age_seconds` old and holds a line.

        Raises:
            AuditFolderError: the folder cannot be used (AuditLockedError: in use).
        """
        self.folder = folder
        self.resumed: Mapping[str, Any] = {}
        self._max_bytes = max_bytes
        self._max_age_seconds = max_age_seconds
        self._begun_at = 0.0
        self._first_seq = 0
        self._node = node
        self._clock = clock
        self._log_id = new_id()
        self._fd = -1
        self._identity = (0, 0)
        self._number = 0
        self._size = 0
        self._state = ChainState()
        self._dirty = False
        self._is_cut_due = False
        self._committed = (0, 0)
        self._checkpoints = CheckpointKeeper(folder, signer) if signer is not None else None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(folder)
        except OSError as exc:
            raise AuditFolderError(str(folder), exc.strerror or "cannot be used") from exc
        try:
            self._resume()
            if self._checkpoints is not None:
                self._checkpoints.resume(self._state.seq)
        except OSError as exc:
            self.close()
            raise AuditFolderError(str(folder), exc.strerror or "cannot be used") from exc
        except AuditFolderError:
            self.close()
            raise

    @property
    def state(self) -> ChainState:
        """The end of the committed chain."""
        return self._state

    @property
    def number(self) -> int:
        """The segment that is open, or the last one that was; 0 before the first."""
        return self._number

    @property
    def committed(self) -> tuple[int, int]:
        """The open segment's number, and how many of its bytes will stay. For any thread."""
        return self._committed

    @property
    def seconds_left(self) -> float:
        """How long the open segment may stay open; infinite while it holds no line but its header.

        It may be less than nothing.
        """
        if self._fd < 0 or self._state.seq <= self._first_seq:
            return math.inf
        return self._begun_at + self._max_age_seconds - self._clock()

    @property
    def is_dirty(self) -> bool:
        """Whether committed lines were not yet forced to the disk."""
        return self._dirty

    def append(self, documents: Sequence[Mapping[str, Any] | Rendered], *, sync: bool) -> int:
        """Write documents up to the end of a segment; return how many, at least one.

        Raises:
            OSError: nothing of this call was committed; it may be tried again.
        """
        if self._fd < 0 or self._size >= self._max_bytes or self.seconds_left <= 0:
            self._begin_segment()
        elif not self._is_in_place():
            raise FileNotFoundError(f"segment `{segment_name(self._number)}` has gone")
        state, lines, size = self._state, list[bytes](), self._size
        for document in documents:
            if lines and size >= self._max_bytes:
                break
            if isinstance(document, Rendered):
                line, state = link_text(state, document.text)
            else:
                line, state = self._link(state, document)
            lines.append(line)
            size += len(line)
        self._commit(lines, state, sync=sync)
        return len(lines)

    def sync(self) -> None:
        """Force what was committed to the disk.

        Raises:
            OSError: the disk did not take it.
        """
        if self._dirty and self._fd >= 0:
            os.fsync(self._fd)
        self._dirty = False

    def close_aged(self) -> None:
        """Begin the next segment when the open one is too old.

        Raises:
            OSError: it cannot be begun; it may be tried again.
        """
        if self.seconds_left <= 0:
            self._begin_segment()

    def seal(self) -> None:
        """Sign a checkpoint of all that was committed, where a key was given.

        Raises:
            OSError: it could not be forced to the disk or signed; it may be tried again.
        """
        if self._checkpoints is not None and self._number:
            self.sync()
            self._checkpoints.seal(self._number)

    def reopen(self) -> None:
        """Take the folder up again after a failure; the chain goes on where it was committed.

        WHY the folder is not made anew: a mount that went away must not be
        replaced by a folder beneath it.

        Raises:
            OSError: the folder is still not there.
            AuditFolderError: another process has taken it.
        """
        self._cut_back()
        if self._is_in_place():
            return
        self._close_segment()
        self._lock.release()
        self._lock = FolderLock(self.folder)
        path = self.folder / segment_name(self._number)
        if path.exists() and path.stat().st_size == self._size:
            self._keep_open(os.open(path, _FLAGS, _MODE))
        else:  # the segment is lost: the next one says so by what its `prev` expects
            self._number = max([self._number, *(n for n, _ in list_segments(self.folder))])

    def close(self) -> None:
        """Close the segment and drop the lock."""
        self._close_segment()
        self._lock.release()

    def _resume(self) -> None:
        """Find the end of the chain that earlier processes wrote."""
        segments = list_segments(self.folder)
        if not segments:
            return
        self._log_id = _log_id(segments) or self._log_id
        self._number, path = segments[-1]
        found = resume_segment(path)
        self.resumed, self._state = found.details, found.state
        self._committed = (self._number, sys.maxsize)  # nothing more is written there
        if not found.in_place:
            return
        self._size = path.stat().st_size
        if self._size:
            self._committed = (self._number, self._size)
            self._keep_open(os.open(path, _FLAGS, _MODE))
            self._first_seq, self._begun_at = _begin_of(path, self._clock())
            return
        # The newest segment never began: the chain ends in the one before.
        path.unlink()
        self._number -= 1
        self._committed = (self._number, sys.maxsize)
        if len(segments) > 1:
            before = resume_segment(segments[-2][1])
            self._state, self.resumed = before.state, found.details or before.details

    def _begin_segment(self) -> None:
        """Close the segment and begin the next with its header, all or nothing."""
        if self._fd >= 0:
            self.sync()
            self.seal()
            self._close_segment()
        number = self._number + 1
        header: SegmentDocument = {
            "kind": Kind.SEGMENT.value,
            "schema": SCHEMA_VERSION,
            "segment": number,
            "first_seq": self._state.seq + 1,
            "log_id": self._log_id,
            "node": self._node,
            "created_at": format_time(self._clock()),
        }
        line, state = link_line(self._state, header)
        path = self.folder / segment_name(number)
        fd = os.open(path, _FLAGS | os.O_EXCL, _MODE)
        try:
            _write_all(fd, line)
            os.fsync(fd)
            sync_folder(self.folder)
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        self._keep_open(fd)
        self._number, self._size, self._state = number, len(line), state
        self._first_seq, self._begun_at = state.seq, self._clock()
        self._committed = (number, len(line))
        self._note_committed([line])

    def _link(self, state: ChainState, document: Mapping[str, Any]) -> tuple[bytes, ChainState]:
        """Return the document's line; one that cannot be written whole becomes a fault's line."""
        try:
            line, after = link_line(state, document)
        except (ValueError, TypeError, RecursionError) as exc:
            return link_line(state, self._fault_document(document, type(exc).__name__))
        if len(line) > MAX_LINE_BYTES:
            return link_line(state, self._fault_document(document, f"{len(line)} bytes long"))
        return line, after

    def _fault_document(self, document: Mapping[str, Any], why: str) -> dict[str, Any]:
        """Return the event that stands for a record whose own text could not be written."""
        decision = document.get("decision")
        kept = decision if isinstance(decision, dict) else {}
        return {
            "kind": Kind.EVENT.value,
            "schema": SCHEMA_VERSION,
            "event": "record_fault",
            "at": format_time(self._clock()),
            "node": self._node,
            "details": {
                "why": why,
                "decision_id": str(document.get("decision_id", ""))[:64],
                "effect": str(kept.get("effect", ""))[:64],
                "reason": str(kept.get("reason", ""))[:64],
                "policy": str(kept.get("policy", ""))[:512],
            },
        }

    def _commit(self, lines: list[bytes], state: ChainState, *, sync: bool) -> None:
        """Write the lines after the committed size; on failure cut the file back to it."""
        data = b"".join(lines)
        try:
            _write_all(self._fd, data)
            if sync:
                os.fsync(self._fd)
        except OSError:
            self._is_cut_due = True
            self._cut_back()
            raise
        self._size += len(data)
        self._state = state
        self._committed = (self._number, self._size)
        self._dirty = not sync
        self._note_committed(lines)

    def _cut_back(self) -> None:
        """Take away what a failed write left behind the committed lines, if it did.

        Raises:
            OSError: the file cannot be cut now either; `reopen` tries again.
        """
        if self._is_cut_due:
            os.ftruncate(self._fd, self._size)
            self._is_cut_due = False

    def _note_committed(self, lines: list[bytes]) -> None:
        if self._checkpoints is not None:
            self._checkpoints.take(lines)

    def _is_in_place(self) -> bool:
        """Whether the open segment is still the file of that name in the folder."""
        if self._fd < 0:
            return self.folder.is_dir() and self._number == 0
        try:
            # WHY no Path: to put one together takes as long as the question, for each group.
            there = os.stat(f"{self.folder}/{segment_name(self._number)}")  # noqa: PTH116
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == self._identity and there.st_size == self._size

    def _keep_open(self, fd: int) -> None:
        """Write to this file from now on.

        WHY its identity is asked once: whatever asks the system lets go of the interpreter, and
        to get it back from a thread that decides costs that thread more than a record does.
        """
        self._fd = fd
        found = os.fstat(fd)
        self._identity = (found.st_dev, found.st_ino)

    def _close_segment(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._is_cut_due = False


def _write_all(fd: int, data: bytes) -> None:
    """Write every byte, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _log_id(segments: Sequence[tuple[int, Path]]) -> str | None:
    """Return the log's id from the newest header that can be read."""
    for _, path in reversed(segments):
        try:
            found = parse_line(next(read_raw_lines(path), b"")).document.get("log_id")
        except DamagedLineError:
            continue
        if isinstance(found, str):
            return found
    return None


def _begin_of(path: Path, now: float) -> tuple[int, float]:
    """Return the seq of a segment's header and when it was made; `now` where it does not tell."""
    try:
        line = parse_line(next(read_raw_lines(path), b""))
        return line.seq, datetime.fromisoformat(line.document["created_at"]).timestamp()
    except (DamagedLineError, LookupError, ValueError, TypeError):
        return 0, now
