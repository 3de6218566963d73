"""Where the texts of a YAML file stand, to replace one and leave all else as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

# A text that needs no quotes, anywhere: no number, no boolean, no sign of YAML's.
_PLAIN: Final = re.compile(r"/[A-Za-z0-9/._-]*\*?|[A-Za-z][A-Za-z0-9._-]*[/.-][A-Za-z0-9/._-]*\*?")
_NAME: Final = re.compile(r"[A-Za-z]{3,}")
_WORDS: Final = frozenset({"true", "false", "yes", "off", "null"})


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text of a file: where it is, in characters, how it is quoted, and what it says."""

    start: int
    end: int
    style: str
    text: str

    def respelled(self, text: str) -> str:
        """Return another text in the same quotes, or in some where it needs them."""
        if self.style == "'":
            return "'" + text.replace("'", "''") + "'"
        is_plain = _PLAIN.fullmatch(text) or (_NAME.fullmatch(text) and text.lower() not in _WORDS)
        if not self.style and is_plain:
            return text
        return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Edit:
    """A text in the place of a scalar."""

    scalar: Scalar
    text: str


def find_scalars(text: str) -> dict[tuple[int, int], tuple[Scalar, Scalar | None]]:
    """Return the scalars of a text that can be replaced, by line and column, each with the next.

    Those with an anchor or a tag, in blocks or over several lines are left out: what else they
    mean is not known here. Where the text is not YAML any more, the rest is left out.
    """
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    events = list(_scalar_events(text))
    found: dict[tuple[int, int], tuple[Scalar, Scalar | None]] = {}
    for event, following in zip(events, [*events[1:], None], strict=True):
        scalar = _scalar(event, starts)
        if scalar is not None:
            mark = event.start_mark
            behind = None if following is None else _scalar(following, starts)
            found[mark.line + 1, mark.column + 1] = (scalar, behind)
    return found


def _scalar_events(text: str) -> Iterator[Any]:
    loader = yaml.CSafeLoader(text)
    try:
        while (event := loader.get_event()) is not None:
            if isinstance(event, yaml.ScalarEvent):
                yield event
    except yaml.YAMLError:
        return
    finally:
        loader.dispose()


def _scalar(event: Any, starts: list[int]) -> Scalar | None:
    begin, end = event.start_mark, event.end_mark
    style = event.style or ""
    is_simple = event.anchor is None and event.tag is None and style in ("", "'", '"')
    if not is_simple or begin.line != end.line:
        return None
    start = starts[begin.line] + begin.column
    return Scalar(start, starts[end.line] + end.column, style, str(event.value))


def edited(text: str, edits: Iterable[Edit]) -> str:
    """Return the text with the edits made; of two about one place the first counts."""
    by_place: dict[int, Edit] = {}
    for edit in edits:
        by_place.setdefault(edit.scalar.start, edit)
    for _, edit in sorted(by_place.items(), reverse=True):
        scalar = edit.scalar
        text = f"{text[: scalar.start]}{scalar.respelled(edit.text)}{text[scalar.end :]}"
    return text
