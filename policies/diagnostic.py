"""What is wrong with a file: values that are collected and shown, never raised one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error refuses the load; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """A place in a file; line and column count from 1, 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Return `file:line` (the column is left out: editors open lines)."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding: what, where, why, and in `help` how to mend it."""

    code: str
    message: str
    location: Location
    help: str = ""
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        """Return the one-line form `file:line: error: message [code] (help)`."""
        tail = f" ({self.help})" if self.help else ""
        return f"{self.location}: {self.severity}: {self.message} [{self.code}]{tail}"


class LoadError(Exception):
    """A file or a set of files cannot be used; nothing of it was loaded."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Keep every finding, in reading order."""
        self.diagnostics = tuple(sorted(diagnostics, key=lambda found: found.location))
        super().__init__("\n".join(str(found) for found in self.diagnostics))
