"""The things a test may come to, and how often one did.

A rule counts when it matched where its answer was needed. So does an entry of `from` or `to`,
where there are several, and each value that held in it. A `not` value counts when it alone
kept its entry from holding. A line of Rego counts when all that begins on it was evaluated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from policies.diagnostic import Location


class Kind(StrEnum):
    """What kind of thing it is."""

    RULE = "rule"
    ENTRY = "entry"
    VALUE = "value"
    NOT = "not"
    LINE = "line"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a test may come to; `owner` is the rule, `text` what of it."""

    kind: Kind
    location: Location
    owner: str = ""
    text: str = ""

    @property
    def told(self) -> str:
        """What of which rule it is, in words."""
        if self.kind is Kind.LINE:
            return "a line of Rego"
        return f"{self.owner} {self.text}" if self.text else f"rule {self.owner}"


class Tally:
    """How often each item was come to; what is not in it is not to be come to."""

    def __init__(self, counts: Iterable[tuple[Item, int]] = ()) -> None:
        """Begin with these counts."""
        self._counts: Counter[Item] = Counter()
        for item, count in counts:
            self.add(item, count)

    def add(self, item: Item, count: int) -> None:
        """Count an item; 0 says that there is such an item."""
        self._counts[item] += count

    def merge(self, other: Tally) -> None:
        """Add what another run came to."""
        for item, count in other:
            self.add(item, count)

    def __iter__(self) -> Iterator[tuple[Item, int]]:
        """Iterate over items and counts, by place."""
        return iter(sorted(self._counts.items(), key=_by_place))

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self._counts)

    @property
    def reached(self) -> int:
        """How many items were come to."""
        return sum(count > 0 for count in self._counts.values())

    @property
    def percent(self) -> float:
        """The share of items that were come to; 100 where there are none."""
        return 100.0 * self.reached / len(self) if len(self) else 100.0


@dataclass(frozen=True, slots=True)
class FileTally:
    """What was come to in one file, by place."""

    file: str
    items: tuple[tuple[Item, int], ...]

    @property
    def reached(self) -> int:
        """How many items were come to."""
        return sum(count > 0 for _, count in self.items)

    def by_line(self) -> Iterator[tuple[int, list[tuple[Item, int]]]]:
        """Yield each line that has items, with them."""
        for line, found in groupby(self.items, key=lambda entry: entry[0].location.line):
            yield line, list(found)


def by_file(tally: Tally) -> list[FileTally]:
    """Return the counts file by file, in name order."""
    return [
        FileTally(file, tuple(found))
        for file, found in groupby(tally, key=lambda entry: entry[0].location.file)
    ]


def _by_place(entry: tuple[Item, int]) -> tuple[Location, str, str]:
    item, _ = entry
    return item.location, str(item.kind), item.text


def shown_percent(share: float) -> str:
    """Return a share as text, rounded down, so that 100 % is said of nothing less.

    >>> shown_percent(99.99)
    '99.9%'
    """
    return f"{int(share * 10) / 10:.1f}%"
