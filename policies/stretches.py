"""A text cut where its documents begin, so that an edit of one leaves the others as they were.

Theory of operation. `---` at the start of a line begins a document wherever it stands, so what
lies between two of them can be read alone, and means the same. Where a text has anything that
reaches beyond a document (directives, anchors), or whose lines are not counted by line feeds, it
is not cut: whoever asked reads it whole.

Spec: YAML 1.1, 4.3.2 "Document boundary markers"; libyaml's scanner, which looks for them at the
start of each line, in quoted texts and brackets too, where they are an error.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Final

from policies.documents import MAX_BYTES

_BEGIN: Final = re.compile(r"^---(?=[ \t\n]|\Z)", re.MULTILINE)
# `%` begins a directive, which the next document is read by; `&` is an anchor, whose aliases are
# counted over all documents.
_DIRECTIVE: Final = re.compile(r"^%", re.MULTILINE)
_REACHING: Final = "&"
# The line breaks of YAML besides the line feed, and the mark that may stand before a document.
_ODD: Final = ("\r", "\x85", "\u2028", "\u2029", "\ufeff")
# BUDGET: more than any set has; empty documents count together for the reader.
_MAX_STRETCHES: Final = 50_000
_MARK_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Stretches:
    """The stretches of a text: the first line of each, from 1, and a digest of each in a row."""

    lines: array[int]
    marks: bytes

    def places(self) -> Iterator[tuple[int, bytes]]:
        """Yield line and digest of each: those of two texts that are the same hold the same."""
        for number, line in enumerate(self.lines):
            yield line, self.marks[number * _MARK_BYTES : (number + 1) * _MARK_BYTES]

    def number_at(self, line: int) -> int:
        """Return the number of the stretch that a line stands in."""
        return bisect_right(self.lines, line) - 1


def cut(text: str) -> tuple[Stretches, Sequence[str]] | None:
    """Return the stretches of a text and their texts, or None for one that is to be read whole."""
    if len(text) > MAX_BYTES or _REACHING in text or any(each in text for each in _ODD):
        return None
    if _DIRECTIVE.search(text):
        return None
    bounds = [0, *(found.start() for found in _BEGIN.finditer(text) if found.start()), len(text)]
    if len(bounds) > _MAX_STRETCHES:
        return None
    texts = [text[begin:end] for begin, end in pairwise(bounds)]
    lines, line = array("L"), 1
    for each in texts:
        lines.append(line)
        line += each.count("\n")
    return Stretches(lines, b"".join(map(_mark, texts))), texts


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as ranges, each with its end.

    >>> runs([1, 2, 3, 7])
    [(1, 4), (7, 8)]
    """
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


def _mark(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_MARK_BYTES).digest()
