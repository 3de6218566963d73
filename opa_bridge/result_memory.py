"""Results by input, remembered: the embedded engine's policies are functions of their input.

WHY it is sound: no built-in that reads a clock, chance or the network loads, and data
change only with the engine. Bounded in entries and in the size of each.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import Final

# BUDGET: entries, and the bytes of one result; some 8 MB at the very most.
_ENTRIES: Final = 4096
_RESULT_BYTES: Final = 2048


class ResultMemory:
    """The results used last, by the digest of the input. Safe from many threads."""

    def __init__(self, entries: int = _ENTRIES) -> None:
        """Begin empty."""
        self._entries = entries
        self.hits = 0
        self._found: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, document: bytes) -> bytes | None:
        """Return the result for an input, or None."""
        key = _key(document)
        with self._lock:
            found = self._found.get(key)
            if found is not None:
                self.hits += 1
                self._found.move_to_end(key)
            return found

    def keep(self, document: bytes, result: bytes) -> None:
        """Remember a result; large ones are not worth their room."""
        if len(result) > _RESULT_BYTES:
            return
        with self._lock:
            self._found[_key(document)] = result
            if len(self._found) > self._entries:
                self._found.popitem(last=False)

    def __len__(self) -> int:
        """Return how many results are remembered."""
        return len(self._found)


def _key(document: bytes) -> bytes:
    # Not the input itself: it holds what callers sent, and would be kept for long.
    return hashlib.sha256(document).digest()
