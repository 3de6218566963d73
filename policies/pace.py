"""How a long build lets others have the interpreter in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")

Pace = Callable[[], None]
"""Is called after each small piece of work, and may wait."""


def no_pace() -> None:
    """Go on at once: nobody is served meanwhile."""


def paced(items: Iterable[_T], pace: Pace) -> Iterator[_T]:
    """Yield the items, with a pause after each as `pace` wants it."""
    for each in items:
        yield each
        pace()
