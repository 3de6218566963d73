"""A bar on standard error for what takes long, where a person looks on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_AFTER: Final = 1.0  # seconds: what is done sooner needs no bar


@contextmanager
def showing_progress() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Give a function that is told what is done next, and returns who is told how far that is.

    The bar appears after a second, and only on a terminal.
    """
    console = Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    begun = time.monotonic()

    def stage(what: str) -> Callable[[int, int], None]:
        task: TaskID | None = None

        def tell(done: int, whole: int) -> None:
            nonlocal task
            if task is None and time.monotonic() - begun >= _AFTER:
                bars.start()
                task = bars.add_task(what, total=whole)
            if task is not None:
                bars.update(task, completed=done, total=whole)

        return tell

    try:
        yield stage
    finally:
        bars.stop()
