"""YAML text to trees that remember where each piece stands.

Multi-document files, duplicate keys refused, aliases expanded under a budget.
The scalars follow what `kubectl apply` makes of them: plain `yes` and `on` are
booleans, dates stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from policies.diagnostic import Diagnostic, LoadError, Location

# BUDGET: a document deeper or larger than any policy needs is an attack (alias bombs).
_MAX_DEPTH = 64
_MAX_NODES = 2_000_000

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class YamlScalar:
    """A leaf: text, number, boolean or null."""

    value: str | int | float | bool | None
    location: Location

    def plain(self) -> Any:
        """Return the bare value."""
        return self.value


@dataclass(frozen=True, slots=True)
class YamlList:
    """A sequence of nodes."""

    items: tuple[YamlNode, ...]
    location: Location

    def plain(self) -> Any:
        """Return the bare list."""
        return [item.plain() for item in self.items]


@dataclass(frozen=True, slots=True)
class YamlMap:
    """A mapping with text keys; `key_locations` says where each key stands."""

    entries: dict[str, YamlNode]
    key_locations: dict[str, Location]
    location: Location

    def plain(self) -> Any:
        """Return the bare dictionary."""
        return {key: node.plain() for key, node in self.entries.items()}


YamlNode = YamlScalar | YamlList | YamlMap
"""Any node of a document tree."""


def parse_documents(text: str, file: str) -> tuple[YamlNode, ...]:
    """Return the documents of `text`, empty ones left out.

    Raises:
        LoadError: the text is not YAML, or holds a duplicate key, a custom tag,
            a key that is not text, or more than the budget allows.
    """
    builder = _TreeBuilder(file)
    try:
        roots = list(yaml.compose_all(text, Loader=yaml.CSafeLoader))
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        problem = exc.problem or exc.context or "the text cannot be read"
        raise _refusal(Location(file, line, column), f"not valid YAML: {problem}") from exc
    except (yaml.YAMLError, UnicodeEncodeError) as exc:
        raise _refusal(Location(file), "not valid YAML: the text has a forbidden byte") from exc
    trees = [builder.build(root, 0) for root in roots]
    return tuple(
        tree for tree in trees if not (isinstance(tree, YamlScalar) and tree.value is None)
    )


def _refusal(location: Location, message: str, help_: str = "") -> LoadError:
    return LoadError(
        [Diagnostic(code="yaml-invalid", message=message, location=location, help=help_)]
    )


class _TreeBuilder:
    """Turns composed nodes into our trees, counting as it goes."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._nodes = 0

    def build(self, node: yaml.Node, depth: int) -> YamlNode:
        location = Location(self._file, node.start_mark.line + 1, node.start_mark.column + 1)
        self._nodes += 1
        if depth > _MAX_DEPTH:
            raise _refusal(location, f"nested deeper than {_MAX_DEPTH} levels")
        if self._nodes > _MAX_NODES:
            raise _refusal(location, f"more than {_MAX_NODES} nodes once aliases are expanded")
        if isinstance(node, yaml.MappingNode):
            return self._map(node, location, depth)
        if isinstance(node, yaml.SequenceNode):
            items = tuple(self.build(item, depth + 1) for item in node.value)
            return YamlList(items, location)
        assert isinstance(node, yaml.ScalarNode)
        return YamlScalar(_scalar_value(node, location), location)

    def _map(self, node: yaml.MappingNode, location: Location, depth: int) -> YamlMap:
        entries: dict[str, YamlNode] = {}
        key_locations: dict[str, Location] = {}
        for key_node, value_node in node.value:
            place = Location(
                self._file, key_node.start_mark.line + 1, key_node.start_mark.column + 1
            )
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal(place, "a mapping key must be text")
            key = str(key_node.value)
            if key_node.tag == _TAG + "merge":
                raise _refusal(place, "the merge key `<<` is not supported", "write the keys out")
            if key in entries:
                first = key_locations[key].line
                raise _refusal(
                    place, f"duplicate key `{key}`, first written on line {first}", "keep one"
                )
            entries[key] = self.build(value_node, depth + 1)
            key_locations[key] = place
        return YamlMap(entries, key_locations, location)


def _scalar_value(node: yaml.ScalarNode, location: Location) -> str | int | float | bool | None:
    """Return what a scalar means; quoted text is always text."""
    text = str(node.value)
    # A plain scalar has no style; libyaml says so with an empty text.
    if node.style:
        return text
    match node.tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return _BOOLEANS[text.lower()]
        case "int" | "float":
            return _number(text)
        case "str" | "timestamp" | "value":
            return text
        case _:
            raise _refusal(location, f"the tag `{node.tag}` is not supported")


def _number(text: str) -> str | int | float:
    """Return the number, or the text where only YAML 1.1 sees a number (`1:30`, `0777`)."""
    if _INTEGER.fullmatch(text):
        # BUDGET: int() of a very long text is quadratic.
        return int(text) if len(text) <= 32 else text
    if ":" in text or "_" in text:
        return text
    try:
        return float(text)
    except ValueError:
        return text


def walk(node: YamlNode) -> Iterator[YamlNode]:
    """Yield `node` and all nodes below it, in reading order."""
    yield node
    if isinstance(node, YamlMap):
        for child in node.entries.values():
            yield from walk(child)
    elif isinstance(node, YamlList):
        for child in node.items:
            yield from walk(child)
