"""The interpreter, set for a process that answers many short questions."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from functools import cache
from typing import Final

# WHY: a thread that computes is asked for the interpreter after this long, and a check changes
# threads three times: with Python's own 5 ms it waits for the writer of the record each time.
_SWITCH_SECONDS: Final = 0.0005
# WHY: records wait in a queue, so that the collector, which runs when objects stay, would run
# every few checks and find nothing: what a check makes has no cycles.
_THRESHOLDS: Final = (50_000, 20, 50)


def set_up_for_serving() -> None:
    """Change threads soon, and look for cycles seldom and not in what was loaded."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def give_memory_back() -> None:
    """Return what is free to the system: the C library keeps the texts' and the pickles' share."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return glibc's own function; None with another C library.

    WHY once: each look makes a type, which is a cycle.
    """
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return found
