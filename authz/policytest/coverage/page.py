"""Coverage as one HTML page: each file with its text, and a mark where no test came.

Every text is a stranger's: the template escapes all of it, and the page fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
from markupsafe import Markup

from authz.policytest.coverage.items import FileTally, Tally, by_file, shown_percent
from authz.render_findings import visible

_FULL, _PART, _NONE, _PLAIN = "full", "part", "none", ""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file: how it was come to (`full`, `part`, `none` or nothing), what is missing."""

    number: int
    text: str
    state: str
    count: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A file with its lines; where its text cannot be read, only those with items."""

    tally: FileTally
    lines: tuple[Line, ...]

    @property
    def percent(self) -> float:
        """The share that was come to."""
        return 100.0 * self.tally.reached / len(self.tally.items)


def as_html(tally: Tally) -> str:
    """Return the page."""
    style = _resource("page.css")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = _visible
    environment.filters["percent"] = shown_percent
    template = environment.from_string(_resource("page.html"))
    return template.render(
        tally=tally,
        sheets=[Sheet(each, tuple(_lines(each))) for each in by_file(tally)],
        style=Markup(style),  # noqa: S704 - our own file
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
    )


def _lines(each: FileTally) -> Iterator[Line]:
    found = dict(each.by_line())
    texts = _texts(each.file) or [""] * max(found, default=0)
    for number, text in enumerate(texts, 1):
        items = found.get(number, [])
        missing = tuple(item.told for item, count in items if not count)
        count = max((count for _, count in items), default=0)
        if not items:
            state = _PLAIN
        elif not missing:
            state = _FULL
        else:
            state = _PART if count else _NONE
        yield Line(number, text, state, count, missing)


def _texts(file: str) -> list[str]:
    """Return the lines of a file; none for what came out of a bundle, or went away."""
    try:
        return Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _visible(text: object) -> str:
    return visible(str(text).expandtabs(4))


def _resource(name: str) -> str:
    return files("authz.policytest.coverage").joinpath(name).read_text(encoding="utf-8")
