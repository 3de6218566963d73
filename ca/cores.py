"""Which core a signing worker stays on.

A worker that is moved about finds its caches cold each time. Where there are as many workers as
cores each has one of its own, and all else takes what they leave; else the kernel deals them out.
"""

from __future__ import annotations

import os


def core_of(number: int, count: int) -> int | None:
    """Return the core of worker `number` (0 is the first) of `count`, None for any."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[number] if count == len(cores) else None


def keep_to(core: int | None) -> None:
    """Keep this thread, and those that it will start, to a core; a wish, not a condition."""
    if core is None:
        return
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        # The core was taken from us meanwhile: we run where we may.
        return
