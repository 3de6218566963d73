"""The progress bar: there when something takes long on a terminal, and nowhere else."""

from __future__ import annotations

from io import StringIO
from threading import Event

import pytest
from rich.console import Console

from authz.commands.slow_bar import SlowBar


class _Screen(StringIO):
    """What was written, and when there was something."""

    def __init__(self) -> None:
        super().__init__()
        self.written = Event()

    def write(self, text: str) -> int:
        """Keep a text."""
        self.written.set()
        return super().write(text)


def test_it_comes_on_a_terminal() -> None:
    """What takes longer than the time it is given is shown by name, and gone at the end."""
    screen = _Screen()
    console = Console(file=screen, force_terminal=True, width=60)
    with SlowBar("linting", console, after_seconds=0) as bar:
        bar.step(1, 4)
        assert screen.written.wait(20)
        bar.step(4, 4)
    assert "linting" in screen.getvalue()


@pytest.mark.parametrize(("is_terminal", "after"), [(False, 0.0), (True, 3600.0)])
def test_it_does_not_come(is_terminal: bool, after: float) -> None:
    """Into a pipe, or where all is done soon, nothing is written, not even an empty line."""
    screen = _Screen()
    console = Console(file=screen, force_terminal=is_terminal, width=60)
    with SlowBar("linting", console, after_seconds=after) as bar:
        bar.step(1, 1)
    assert screen.getvalue() == ""


def test_it_goes_when_something_fails() -> None:
    """An error inside passes through, and the clock is stopped."""
    console = Console(file=_Screen(), force_terminal=True)
    with pytest.raises(ValueError, match="inside"), SlowBar("x", console, after_seconds=3600):
        raise ValueError("inside")
