"""Texts inside ConfigMaps: Rego modules and our own settings, with the places they have there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from policies.diagnostic import Location
from policies.documents import YamlMap, YamlScalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A text with its `name` (the key); `file` holds it.

    Its first line is line `line` of the file, each line `indent` columns to the right. Where
    lines do not correspond (a quoted or folded text), `is_exact` is false, and every place is
    that of the text's beginning.
    """

    name: str
    text: str
    file: str
    line: int = 1
    column: int = 1
    indent: int = 0
    is_exact: bool = True

    def place(self, line: int, column: int = 1) -> Location:
        """Return where a place of the text is in the file; line 0 is the whole text."""
        if not self.is_exact or not line:
            return Location(self.file, self.line, self.column)
        return Location(self.file, self.line + line - 1, self.indent + max(column, 1))


def plain_text(file: str, text: str) -> Embedded:
    """Return a file of its own."""
    return Embedded(name=file, text=text, file=file)


def read_embedded(config_map: YamlMap, source: str) -> Iterator[Embedded]:
    """Yield the texts of a ConfigMap's `data`; `source` is the file it stands in."""
    data = config_map.entries.get("data")
    if not isinstance(data, YamlMap):
        return
    lines = source.split("\n")
    for name, node in data.entries.items():
        if isinstance(node, YamlScalar) and isinstance(node.value, str):
            yield _embedded(name, node.value, node.location, lines)


def _embedded(name: str, text: str, place: Location, lines: list[str]) -> Embedded:
    written = lines[place.line - 1][place.column - 1 :]
    # A block literal keeps its lines, from the one below its `|`, without their indentation.
    body = lines[place.line : place.line + text.count("\n") + 1]
    first = next((index for index, line in enumerate(text.split("\n")) if line.strip()), None)
    if not written.startswith("|") or first is None or first >= len(body):
        return Embedded(name=name, text=text, file=place.file, line=place.line,
                        column=place.column, is_exact=False)  # fmt: skip
    inner, outer = text.split("\n")[first], body[first].rstrip("\r")
    indent = len(outer) - len(inner) if outer.endswith(inner) else 0
    return Embedded(
        name=name, text=text, file=place.file, line=place.line + 1, column=indent + 1, indent=indent
    )
