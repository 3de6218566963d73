"""The log without structlog says what structlog says, byte for byte."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from authz.logging_setup import set_up_logging
from authz.plain_log import PlainLog, is_colored
from authz.settings import LogSettings

NOON = datetime(2026, 7, 1, 12, 0, 0, 123456, tzinfo=UTC)
WHEN = "2026-07-01T12:00:00.123456Z"
NAMES = st.text("abcdefgh_", min_size=1, max_size=12).filter(
    lambda name: name not in {"event", "level", "timestamp"}
)
VALUES = st.none() | st.integers() | st.text() | st.booleans() | st.lists(st.integers())


class Stream(io.StringIO):
    """A standard error that is a terminal or is not."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._is_terminal


def by_structlog(form: str, is_terminal: bool, level: str, event: str, told: Any) -> str:
    """Return the line that structlog's renderers make."""
    said = {**told, "event": event, "level": level, "timestamp": WHEN}
    if form == "json":
        return f"{structlog.processors.JSONRenderer()(None, level, said)}\n"
    return f"{structlog.dev.ConsoleRenderer(colors=is_terminal)(None, level, said)}\n"


@given(
    form=st.sampled_from(["json", "console"]),
    is_terminal=st.booleans(),
    level=st.sampled_from(["info", "error"]),
    event=st.text(min_size=1, max_size=40).filter(lambda text: text == text.strip()),
    told=st.dictionaries(NAMES, VALUES, max_size=4),
)
def test_lines_are_those_of_structlog(
    form: str, is_terminal: bool, level: str, event: str, told: dict[str, Any]
) -> None:
    """Any event with any fields, for machines, for people, and for people at a terminal."""
    stream = Stream(is_terminal)
    log = PlainLog(level="debug", form=form, stream=stream, now=lambda: NOON)

    getattr(log, level)(event, **told)

    assert by_structlog(form, is_terminal, level, event, told) == stream.getvalue()


@pytest.mark.parametrize(
    ("is_terminal", "wish", "want"),
    [(True, "", True), (True, "1", False), (False, "", False), (False, "1", False)],
)
def test_colors_are_for_terminals_of_people_who_want_them(
    is_terminal: bool, wish: str, want: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`NO_COLOR` counts when it is not empty, and no file is colored."""
    monkeypatch.setenv("NO_COLOR", wish)
    assert is_colored(Stream(is_terminal)) is want


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_same_events_are_left_out(
    level: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The configured level counts for both in the same way, and the shape but for the time."""
    before = structlog.get_config()
    plain = Stream(is_terminal=False)
    log = PlainLog(level=level, form=form, stream=plain)
    try:
        set_up_logging(LogSettings(level=level, format=form))
        for each in (structlog.get_logger("told"), log):
            each.info("worker_replaced", worker="1", by="1b")
            each.error("worker_ended", worker="1", code=-9)
    finally:
        structlog.configure(**before)

    said = capsys.readouterr().err
    shapes = [[len(line) for line in text.splitlines()] for text in (said, plain.getvalue())]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) == (1 if level in {"warning", "error"} else 2)
