"""A progress bar that comes only when something takes long, and only on a terminal."""

from __future__ import annotations

from threading import Lock, Timer
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

SHOWN_AFTER_SECONDS: Final = 1.0


class SlowBar:
    """A context whose `step` moves the bar; it is drawn on `console`, and gone at the end."""

    def __init__(
        self, what: str, console: Console, after_seconds: float = SHOWN_AFTER_SECONDS
    ) -> None:
        """Name what is done."""
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
                   TimeElapsedColumn())  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task(what, total=None)
        self._lock = Lock()
        self._is_over = not console.is_terminal
        self._is_shown = False
        self._timer = Timer(after_seconds, self._show)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        """Start the clock."""
        if not self._is_over:
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away, or see that it never comes."""
        with self._lock:
            self._is_over = True
            self._timer.cancel()
            # What was never shown leaves no empty line.
            if self._is_shown:
                self._bar.stop()

    def _show(self) -> None:
        with self._lock:
            if not self._is_over:
                self._is_shown = True
                self._bar.start()

    def step(self, done: int, of: int) -> None:
        """Hear that so many steps of so many are done."""
        self._bar.update(self._task, completed=done, total=of)
