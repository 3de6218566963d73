"""The garbage collector, held back while a policy set is built."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause cyclic garbage collection, and have it leave alone what came to be.

    WHY: a load makes millions of objects that all stay, and the collector would walk
    them again and again: ten thousand policies load three times as fast without it.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.freeze()
            gc.enable()
