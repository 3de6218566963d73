"""How many records were accepted: a number that outlives a killed process.

Accepted records wait in memory until they are written; a process that is killed
takes them with it. The count of those accepted stands in a file that is mapped into
memory, which the kernel keeps: the next writer compares it with the lines that came
to be written and says on record how many did not. A power cut may leave an older
number; then nothing is said that is not known.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

_NAME: Final = "audit.accepted"
_MAGIC: Final = b"mwaudit1"
_LAYOUT: Final = struct.Struct("=8sQQQ")  # magic, seq and segment at the start, accepted since
_COUNT_AT: Final = 3  # in words of 8 bytes


class AcceptedCount:
    """The open count of an audit folder. Its caller holds a lock."""

    __slots__ = ("_count", "_map", "_words", "unwritten")

    def __init__(self, folder: Path, *, seq: int, segment: int) -> None:
        """Open the count; `unwritten` says what the writer before lost, 0 where that is not known.

        `seq` and `segment` are the end of the chain as it was found.

        Raises:
            OSError: the file cannot be made or mapped.
        """
        fd = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.ftruncate(fd, _LAYOUT.size)
            # WHY allocated: a page that a full disk cannot hold would end the process by SIGBUS.
            os.posix_fallocate(fd, 0, _LAYOUT.size)
            self._map = mmap.mmap(fd, _LAYOUT.size)
        finally:
            os.close(fd)
        self._words = memoryview(self._map).cast("Q")
        self._count = 0
        self.unwritten = self._lost(seq, segment)

    def begin(self, *, seq: int, segment: int) -> None:
        """Count anew from the chain's end at which records begin to be accepted."""
        self._count = 0
        _LAYOUT.pack_into(self._map, 0, _MAGIC, seq, segment, 0)

    def add(self, records: int) -> None:
        """Count records that will each be one line; a negative number takes some back."""
        self._count += records
        # WHY not `pack_into`: it writes zeros first, and a process may be killed right then.
        self._words[_COUNT_AT] = self._count

    def _lost(self, seq: int, segment: int) -> int:
        magic: bytes
        began_seq: int
        began_segment: int
        accepted: int
        magic, began_seq, began_segment, accepted = _LAYOUT.unpack_from(self._map, 0)
        if magic != _MAGIC or seq < began_seq or segment < began_segment:
            return 0
        # Each segment begun since has one line that is no record: its header.
        written = (seq - began_seq) - (segment - began_segment)
        return max(0, accepted - written)
