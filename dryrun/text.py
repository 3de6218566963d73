"""Reports as text: columns, counts, and nothing in them that a client could have aimed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield rows as lines of columns; the first row is the head."""
    printable = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*printable, strict=True)]
    for row in printable:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(cells)).rstrip()


def one_line(text: str) -> str:
    """Return the text without what moves a terminal's cursor."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "request"), plural(2, "request")
    ('1 request', '2 requests')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
