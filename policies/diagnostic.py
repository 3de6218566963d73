"""What is wrong with a file: values that are collected and shown, never raised one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

# BUDGET: a text of the author that is quoted in a message; more of it helps nobody.
_SHOWN_MAX = 100


class Severity(StrEnum):
    """An error refuses the load; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


class Location(NamedTuple):
    """A place in a file; line and column count from 1, 0 means unknown.

    A tuple, because every value of every policy has one and making them is a
    good part of the loading time.
    """

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Return `file:line:column`, as far as it is known."""
        if not self.line:
            return self.file
        tail = f":{self.column}" if self.column else ""
        return f"{self.file}:{self.line}{tail}"


# BUDGET: lines and columns beyond are their own objects.
_NUMBERS: Final = tuple(range(1024))
_SHARED: Final = len(_NUMBERS)
# WHY: a named tuple's own constructor is Python, and takes three times as long as the tuple's.
_tuple: Final[Callable[..., Location]] = tuple.__new__


def location_at(file: str, line: int, column: int) -> Location:
    """Return a place whose small numbers are the same objects everywhere."""
    return _tuple(
        Location,
        (
            file,
            _NUMBERS[line] if line < _SHARED else line,
            _NUMBERS[column] if column < _SHARED else column,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding: what, where, why, and in `help` how to mend it.

    `path` is the field (`spec.rules[0].from[1].source.principals[0]`) and
    `resource` the resource (`AuthorizationPolicy/shop/deny-admin`); each is empty
    where there is none.
    """

    code: str
    message: str
    location: Location
    help: str = ""
    severity: Severity = Severity.ERROR
    path: str = ""
    resource: str = ""

    def __str__(self) -> str:
        """Return the one line `file:line:column: error: path: message [code] (help)`.

        What is in no file begins with `error:`.
        """
        # Many messages begin with the field's name; it is not said twice.
        field = f"{self.path}: " if self.path and self.path not in self.message else ""
        tail = f" ({self.help})" if self.help else ""
        place = f"{self.location}: " if self.location.file else ""
        return f"{place}{self.severity}: {field}{self.message} [{self.code}]{tail}"


class LoadError(Exception):
    """A file or a set of files cannot be used; nothing of it was loaded."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Keep every finding, in reading order."""
        self.diagnostics = tuple(sorted(diagnostics, key=lambda found: found.location))
        super().__init__("\n".join(str(found) for found in self.diagnostics))


def shown(text: str) -> str:
    """Return an author's text as messages quote it: one line, visible, not too long.

    >>> shown("a\\nb"), len(shown("x" * 5000))
    ('a\\\\nb', 103)
    """
    cut = text[:_SHOWN_MAX]
    if not cut.isprintable():
        cut = "".join(
            c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut
        )
    return cut + "..." if len(text) > _SHOWN_MAX else cut
