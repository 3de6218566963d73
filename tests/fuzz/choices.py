"""Bytes read as choices: the same bytes make the same choices, and running out of them is one too.

The fuzzer changes bytes and sees which of our branches they reach. A target that reads
them as choices gets deep where bytes alone would be turned away at the door.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


class Choices:
    """Reads an input from its front; an empty rest gives zeros and empty texts."""

    def __init__(self, data: bytes) -> None:
        """Read `data`, nothing else."""
        self._data = data
        self._at = 0

    def number(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1, of one byte (two above 256)."""
        width = 1 if limit <= 256 else 2
        return int.from_bytes(self.take(width)) % limit

    def pick(self, items: Sequence[_Item]) -> _Item:
        """Return one of the items; the first one when nothing is left."""
        return items[self.number(len(items))]

    def is_yes(self) -> bool:
        """Return a yes or a no; no when nothing is left."""
        return bool(self.number(2))

    def take(self, count: int) -> bytes:
        """Return the next bytes, at most `count` of them."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def text(self, longest: int = 40) -> str:
        """Return a text of a chosen length; bytes that are not UTF-8 stay distinguishable."""
        return self.take(self.number(longest + 1)).decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """Return what is left."""
        return self.take(max(0, len(self._data) - self._at))

    def edited(self, original: bytes, most: int = 8) -> bytes:
        """Return the bytes with some chosen places changed, cut out or filled in."""
        found = bytearray(original)
        for _ in range(self.number(most + 1)):
            at = self.number(65_536) % (len(found) + 1)
            match self.number(4):
                case 0:
                    found[at : at + 1] = self.take(1)
                case 1:
                    del found[at : at + 1 + self.number(16)]
                case 2:
                    found[at:at] = self.take(self.number(9))
                case _:
                    source = self.number(65_536) % (len(found) + 1)
                    found[at:at] = found[source : source + 1 + self.number(32)]
        return bytes(found)
