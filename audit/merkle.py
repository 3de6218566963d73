"""The Merkle tree over a log's lines: RFC 6962, one leaf a line, in order of `seq`.

Leaf `i` is line `seq = i + 1` as written, without its line end. What must be held
to go on is a frontier: the roots of the perfect subtrees, one for each bit set in
the size, so that a log of any length goes on from a few hashes.

Spec: RFC 6962 §2.1 (hashes, paths); RFC 9162 §2.1.3.2 (how a path is verified).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf: SHA-256 of 0x00 and the entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node: SHA-256 of 0x01 and the hashes of its two halves."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """A tree that grows to the right. `peaks` are its perfect subtrees, the largest first."""

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        """Take up a tree of `size` leaves.

        Raises:
            ValueError: the peaks are not those of a tree of that size.
        """
        self.size = size
        self.peaks = list(peaks)
        if size < 0 or len(self.peaks) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves has no {len(self.peaks)} peaks")
        if any(len(peak) != HASH_BYTES for peak in self.peaks):
            raise ValueError("a peak is no SHA-256")

    def add(self, entry: bytes) -> None:
        """Put an entry at the right end."""
        self.add_hash(leaf_hash(entry))

    def add_hash(self, node: bytes) -> None:
        """Put a leaf's hash at the right end."""
        self.add_tree(0, node)

    def add_tree(self, height: int, node: bytes) -> None:
        """Put a perfect subtree of 2**height leaves at the right end.

        Raises:
            ValueError: no such subtree can begin there.
        """
        size, rest = divmod(self.size, 1 << height)
        if rest:
            raise ValueError(f"after {self.size} leaves no tree of {1 << height} can begin")
        while size & 1:
            node = node_hash(self.peaks.pop(), node)
            size >>= 1
        self.peaks.append(node)
        self.size += 1 << height

    def trees(self) -> list[tuple[int, bytes]]:
        """Return the perfect subtrees it is made of as (height, root), from left to right."""
        heights = [at for at in range(self.size.bit_length()) if self.size >> at & 1]
        return list(zip(reversed(heights), self.peaks, strict=True))

    def root(self) -> bytes:
        """Return the root; that of the empty tree is the SHA-256 of nothing."""
        if not self.peaks:
            return hashlib.sha256(b"").digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root


def subtrees(begin: int, leaves: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Return the perfect subtrees of leaves (their hashes) that stand from leaf `begin` on.

    They are (height, root), from left to right; a `Frontier` of size `begin` takes them one by one.
    """
    left: list[tuple[int, bytes]] = []
    right: list[tuple[int, bytes]] = []
    nodes, height = list(leaves), 0
    while nodes:
        if begin & 1:
            left.append((height, nodes.pop(0)))
            begin += 1
        if len(nodes) & 1:
            right.append((height, nodes.pop()))
        nodes = [node_hash(one, two) for one, two in zip(nodes[::2], nodes[1::2], strict=True)]
        begin, height = begin >> 1, height + 1
    return [*left, *reversed(right)]


def sibling_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Return the leaves (begin, end) under each hash of a leaf's inclusion path, leaf upwards.

    Raises:
        ValueError: the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    begin, end = 0, size
    ranges = []
    while end - begin > 1:
        # Spec: RFC 6962 §2.1: "let k be the largest power of two smaller than n".
        middle = begin + (1 << ((end - begin - 1).bit_length() - 1))
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin = middle
    return ranges[::-1]


def inclusion_path(
    entries: Iterable[bytes], index: int, size: int, before: Frontier | None = None
) -> list[bytes]:
    """Return the inclusion path of leaf `index` from the tree's entries, read once, in order.

    Of entries that are gone, the tree `before` is enough: a left sibling that lies among them is
    one of its peaks.

    Raises:
        ValueError: the tree has no such leaf, or there are fewer entries than `size`.
    """
    ranges = sibling_ranges(index, size)
    parts = {begin: (end, Frontier()) for begin, end in ranges}
    end, part = 0, Frontier()
    count = 0
    for height, peak in before.trees() if before is not None else ():
        if count in parts:
            end, part = parts[count]
        if count < end:
            part.add_tree(height, peak)
        count += 1 << height
    for at, entry in enumerate(entries, start=count):
        if at == size:
            break
        if at in parts:
            end, part = parts[at]
        if at < end:
            part.add(entry)
        count += 1
    if count < size:
        raise ValueError(f"{count} entries where the tree has {size}")
    return [parts[begin][1].root() for begin, _ in ranges]


def root_of_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """Return the root that a leaf's hash and its path lead to, or None for a path of wrong length.

    Spec: RFC 9162 §2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    node, first, second = leaf, index, size - 1
    for sibling in path:
        # "If sn is 0, then stop the iteration and fail the proof verification."
        if second == 0:
            return None
        # "If LSB(fn) is set, or if fn is equal to sn, then: Set r to HASH(0x01 || p || r)"
        if first & 1 or first == second:
            node = node_hash(sibling, node)
            while not first & 1 and first:
                first, second = first >> 1, second >> 1
        else:
            node = node_hash(node, sibling)
        first, second = first >> 1, second >> 1
    return node if second == 0 else None
