"""Typed reading of a YAML mapping: every key accounted for, every finding collected.

A reader never guesses. A value of the wrong type, an unknown key or an empty
text becomes a Diagnostic, and the file that holds it is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator

from policies.diagnostic import Diagnostic, Location, Severity
from policies.documents import YamlList, YamlMap, YamlNode, YamlScalar
from policies.model import Value


class Findings:
    """The growing list of what is wrong with a set of files."""

    def __init__(self) -> None:
        """Start with nothing found."""
        self.diagnostics: list[Diagnostic] = []

    def error(self, code: str, message: str, location: Location, help_: str = "") -> None:
        """Add an error: the file is refused."""
        self.diagnostics.append(
            Diagnostic(code=code, message=message, location=location, help=help_)
        )

    def warning(self, code: str, message: str, location: Location, help_: str = "") -> None:
        """Add a warning: the file is used all the same."""
        self.diagnostics.append(
            Diagnostic(
                code=code,
                message=message,
                location=location,
                help=help_,
                severity=Severity.WARNING,
            )
        )

    @property
    def has_errors(self) -> bool:
        """Whether anything found refuses the load."""
        return any(found.severity is Severity.ERROR for found in self.diagnostics)


class Fields:
    """The keys of one mapping; `path` is how messages name it (`spec.rules[0].from`)."""

    def __init__(
        self, node: YamlMap, path: str, findings: Findings, known: Collection[str]
    ) -> None:
        """Check the mapping's keys against `known`; unknown ones are errors."""
        self.node = node
        self.path = path
        self.findings = findings
        for key, location in node.key_locations.items():
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                help_ = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"
                findings.error("unknown-field", f"unknown field `{self.at(key)}`", location, help_)

    def at(self, key: str) -> str:
        """Return the dotted name of a key."""
        return f"{self.path}.{key}" if self.path else key

    def place(self, key: str) -> Location:
        """Return where `key` stands, or where the mapping begins when it is absent."""
        return self.node.key_locations.get(key, self.node.location)

    def has(self, key: str) -> bool:
        """Whether `key` is written with a value other than null."""
        node = self.node.entries.get(key)
        return node is not None and not (isinstance(node, YamlScalar) and node.value is None)

    def wrong_type(self, key: str, expected: str) -> None:
        """Report that the value of `key` has the wrong type."""
        node = self.node.entries[key]
        self.findings.error(
            "wrong-type",
            f"`{self.at(key)}` must be {expected}, not {kind_of(node)}",
            node.location,
            "quote it" if isinstance(node, YamlScalar) and expected == "text" else "",
        )

    def text(self, key: str, default: str = "") -> str:
        """Return the text at `key`."""
        if not self.has(key):
            return default
        node = self.node.entries[key]
        if isinstance(node, YamlScalar) and isinstance(node.value, str):
            return node.value
        self.wrong_type(key, "text")
        return default

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return the boolean at `key`."""
        if not self.has(key):
            return default
        node = self.node.entries[key]
        if isinstance(node, YamlScalar) and isinstance(node.value, bool):
            return node.value
        self.wrong_type(key, "true or false")
        return default

    def mapping(self, key: str) -> YamlMap | None:
        """Return the mapping at `key`, or None when absent or of another type."""
        if not self.has(key):
            return None
        node = self.node.entries[key]
        if isinstance(node, YamlMap):
            return node
        self.wrong_type(key, "a mapping")
        return None

    def child(self, key: str, known: Collection[str]) -> Fields | None:
        """Return the fields of the mapping at `key`, or None when absent."""
        node = self.mapping(key)
        return None if node is None else Fields(node, self.at(key), self.findings, known)

    def items(self, key: str) -> tuple[YamlNode, ...]:
        """Return the items of the list at `key`; absent reads as empty."""
        if not self.has(key):
            return ()
        node = self.node.entries[key]
        if isinstance(node, YamlList):
            return node.items
        self.wrong_type(key, "a list")
        return ()

    def children(self, key: str, known: Collection[str]) -> Iterator[Fields]:
        """Yield the fields of each mapping in the list at `key`; other items are errors."""
        for index, item in enumerate(self.items(key)):
            path = f"{self.at(key)}[{index}]"
            if isinstance(item, YamlMap):
                yield Fields(item, path, self.findings, known)
            else:
                self.findings.error(
                    "wrong-type", f"`{path}` must be a mapping, not {kind_of(item)}", item.location
                )

    def values(self, key: str) -> tuple[Value, ...]:
        """Return the texts of the list at `key`; an empty text is an error."""
        found: list[Value] = []
        for index, item in enumerate(self.items(key)):
            name = f"{self.at(key)}[{index}]"
            if not (isinstance(item, YamlScalar) and isinstance(item.value, str)):
                self.findings.error(
                    "wrong-type",
                    f"`{name}` must be text, not {kind_of(item)}",
                    item.location,
                    "quote it",
                )
            elif not item.value:
                self.findings.error("empty-value", f"`{name}` is empty", item.location)
            else:
                found.append(Value(item.value, item.location))
        return tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the texts of the list at `key` without their places."""
        return tuple(value.text for value in self.values(key))

    def text_map(self, key: str) -> dict[str, str]:
        """Return the text-to-text mapping at `key`."""
        node = self.mapping(key)
        if node is None:
            return {}
        fields = Fields(node, self.at(key), self.findings, node.entries)
        return {name: fields.text(name) for name in node.entries}


def kind_of(node: YamlNode) -> str:
    """Return the word for a node's type."""
    if isinstance(node, YamlMap):
        return "a mapping"
    if isinstance(node, YamlList):
        return "a list"
    match node.value:
        case None:
            return "null"
        case bool():
            return f"the boolean `{str(node.value).lower()}`"
        case int() | float():
            return f"the number `{node.value}`"
        case _:
            return f"the text `{node.value}`"
