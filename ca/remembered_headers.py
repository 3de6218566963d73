"""HPACK's coder with a memory of header blocks that came before on the same connection.

Theory of operation. A client sends the same headers with every call, and is answered with the same.
Once they stand in the tables of both sides, their blocks are the same bytes again and again, and to
code one in Python costs as much as all of a call's frames. What a block means depends on the table
alone; so a block that left the table as it was may be taken from memory as long as nothing changes
the table.

INVARIANT: bytes and headers are those that hpack gives; the tables are hpack's own.

Spec: RFC 7541 §2.2, §2.3 (a block is coded against the tables), §4.2 (size updates).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from hpack import Decoder, Encoder, HeaderTuple
from hpack.table import HeaderTable

# BUDGET: blocks that are kept for a connection, and the longest of them.
_MAX_BLOCKS: Final = 16
_MAX_BLOCK_BYTES: Final = 512


class _Moment:
    """The content of a table as of one moment.

    Entries are pushed at the front and fall off the back, so the first of them and their number
    tell the content. WHY by identity: another entry may say the same, with others behind it.
    """

    __slots__ = ("_count", "_first", "_table")

    def __init__(self, table: HeaderTable) -> None:
        """Look at `table` now."""
        self._table = table
        self._first, self._count = self._look()

    def is_past(self) -> bool:
        """Return whether the table has changed since."""
        first, count = self._look()
        return first is not self._first or count != self._count

    def _look(self) -> tuple[object, int]:
        """Return the first entry and how many there are."""
        entries = self._table.dynamic_entries
        return (entries[0] if entries else None), len(entries)


class RememberingEncoder(Encoder):
    """An encoder for one connection."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        super().__init__()
        self._moment = _Moment(self.header_table)
        self._blocks: dict[tuple[Any, ...], bytes] = {}

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        """Return the block of `headers`, as hpack would encode it now."""
        # A change of the table's size has to be said at the beginning of the next block.
        if self.header_table.resized or not huffman or isinstance(headers, dict):
            self._blocks.clear()
            return super().encode(headers, huffman)
        key = tuple(headers)
        if self._moment.is_past():
            self._moment = _Moment(self.header_table)
            self._blocks.clear()
        block = self._blocks.get(key)
        if block is None:
            block = super().encode(key, huffman)
            # WHY plain tuples only: others are equal to them and may be marked as never indexed.
            if (
                len(self._blocks) < _MAX_BLOCKS
                and len(block) <= _MAX_BLOCK_BYTES
                and all(type(header) is tuple and len(header) == 2 for header in key)
                and not self._moment.is_past()
            ):
                self._blocks[key] = block
        return block


class RememberingDecoder(Decoder):
    """A decoder for one connection, that goes on as `other` would."""

    MAX_BLOCKS: Final = _MAX_BLOCKS

    def __init__(self, other: Decoder) -> None:
        """Take the limits of a decoder that has decoded nothing yet."""
        super().__init__(other.max_header_list_size)
        self.max_allowed_table_size = other.max_allowed_table_size
        self._moment = _Moment(self.header_table)
        self._limits = self._current_limits()
        self._headers: dict[bytes, list[HeaderTuple]] = {}

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """Return the headers of a block, as hpack would decode it now."""
        limits = self._current_limits()
        if self._moment.is_past() or limits != self._limits:
            self._moment, self._limits = _Moment(self.header_table), limits
            self._headers.clear()
        found = self._headers.get(data) if raw else None
        if found is None:
            found = list(super().decode(data, raw))
            if (
                raw
                and len(self._headers) < _MAX_BLOCKS
                and len(data) <= _MAX_BLOCK_BYTES
                and self._current_limits() == limits
                and not self._moment.is_past()
            ):
                self._headers[bytes(data)] = found
        return list(found)

    def recall(self, data: bytes) -> list[HeaderTuple] | None:
        """Return the headers of a block that came before, the same list each time, or None.

        They are what `decode` would return now with `raw`; nobody may change the list.
        """
        if self._moment.is_past() or self._current_limits() != self._limits:
            return None
        return self._headers.get(data)

    def _current_limits(self) -> tuple[int, int, int]:
        """Return what else decides whether a block can be decoded."""
        return self.max_header_list_size, self.max_allowed_table_size, self.header_table_size
