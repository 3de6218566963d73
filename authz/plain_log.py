"""The process log without structlog, in the very same lines: for a process that hardly says a word.

WHY: structlog brings 12 MB with it, which is more than all the rest of such a process.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TextIO

_SEVERITY: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_LEVEL_WIDTH, _EVENT_WIDTH = 9, 30
_NOT_BARE: Final = frozenset(" \t=\r\n\"'")


@dataclass(frozen=True, slots=True)
class _Styles:
    """Terminal sequences, all empty where the log is no terminal."""

    reset: str = ""
    bright: str = ""
    time: str = ""
    key: str = ""
    value: str = ""
    info: str = ""
    error: str = ""


_PLAIN: Final = _Styles()
_COLORED: Final = _Styles(
    reset="\x1b[0m",
    bright="\x1b[1m",
    time="\x1b[2m",
    key="\x1b[36m",
    value="\x1b[35m",
    info="\x1b[32m",
    error="\x1b[31m",
)


def is_colored(stream: TextIO) -> bool:
    """Whether people who read this stream want colors (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


class PlainLog:
    """Writes events as `authz.logging_setup` has structlog write them. Safe from many threads."""

    def __init__(
        self,
        *,
        level: str,
        form: str,
        stream: TextIO,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Write what is at least as severe as `level`, as `json` or for the `console`."""
        self._least = _SEVERITY[level]
        self._is_json = form == "json"
        self._styles = _COLORED if is_colored(stream) else _PLAIN
        self._stream = stream
        self._now = now

    def info(self, event: str, **fields: Any) -> None:
        """Tell of something that is as it should be."""
        self._write("info", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Tell of something that is not."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if _SEVERITY[level] < self._least:
            return
        when = self._now().isoformat().replace("+00:00", "Z")
        if self._is_json:
            line = json.dumps({**fields, "event": event, "level": level, "timestamp": when})
        else:
            line = self._for_people(when, level, event, fields)
        # WHY in one piece: threads write whole lines then.
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _for_people(self, when: str, level: str, event: str, fields: Mapping[str, Any]) -> str:
        style = self._styles
        color = style.error if level == "error" else style.info
        parts = [
            f"{style.time}{when}{style.reset}",
            f"[{color}{style.bright}{level:<{_LEVEL_WIDTH}}{style.reset}]",
            f"{style.bright}{event:<{_EVENT_WIDTH}}{style.reset}",
        ]
        for name, value in sorted(fields.items()):
            shown = f"{style.value}{_shown(value)}{style.reset}"
            parts.append(f"{style.key}{name}{style.reset}={shown}")
        return " ".join(parts).rstrip(" ")


def _shown(value: object) -> str:
    is_bare = isinstance(value, str) and _NOT_BARE.isdisjoint(value)
    return str(value) if is_bare else repr(value)
