"""Typed reading of a YAML mapping: every key accounted for, every finding collected.

A reader never guesses. A value of the wrong type, an unknown key or an empty
text becomes a Diagnostic, and the file that holds it is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from sys import intern
from types import MappingProxyType

from policies.diagnostic import Diagnostic, LoadError, Location, Severity, shown
from policies.documents import YamlList, YamlMap, YamlNode, YamlScalar
from policies.model import Value

# BUDGET: more errors than anybody reads; a text made to hold millions is cut short here.
_MAX_ERRORS = 1000
# BUDGET: comparing long names letter by letter is slow, and no field has a long one.
_MAX_NAME = 64
_NOWHERE: Mapping[str, str] = MappingProxyType({})


class Findings:
    """The growing list of what is wrong with a set of files.

    `resource` is set by whoever begins with one: `kind/namespace/name`. `nodes` counts the
    nodes and keys of the texts that were read to their end.
    """

    def __init__(self) -> None:
        """Start with nothing found."""
        self.diagnostics: list[Diagnostic] = []
        self.resource = ""
        self.nodes = 0
        self._told: set[tuple[str, Location, str]] = set()

    def error(
        self, code: str, message: str, location: Location, help_: str = "", *, path: str = ""
    ) -> None:
        """Add an error: the file is refused. One that was told already is not told again.

        Raises:
            LoadError: there are too many to go on.
        """
        if (code, location, path) in self._told:
            return
        self._told.add((code, location, path))
        self._add(Severity.ERROR, code, message, location, help_, path)
        if len(self._told) >= _MAX_ERRORS:
            raise LoadError(self.diagnostics)

    def warning(
        self, code: str, message: str, location: Location, help_: str = "", *, path: str = ""
    ) -> None:
        """Add a warning: the file is used all the same."""
        self._add(Severity.WARNING, code, message, location, help_, path)

    @property
    def has_errors(self) -> bool:
        """Whether anything found refuses the load."""
        return any(found.severity is Severity.ERROR for found in self.diagnostics)

    def _add(
        self, severity: Severity, code: str, message: str, location: Location, help_: str, path: str
    ) -> None:
        # A message that is read alone says which field it is about.
        if path and path not in message:
            message = f"`{path}`: {message}"
        self.diagnostics.append(
            Diagnostic(
                code=code,
                message=message,
                location=location,
                help=help_,
                severity=severity,
                path=path,
                resource=self.resource,
            )
        )


class Fields:
    """The keys of one mapping; `path` is how messages name it (`spec.rules[0].from`)."""

    __slots__ = ("_entries", "_has_unknown", "findings", "node", "path")

    def __init__(
        self,
        node: YamlMap,
        path: str,
        findings: Findings,
        known: Collection[str] | None = None,
        elsewhere: Mapping[str, str] = _NOWHERE,
    ) -> None:
        """Check the mapping's keys against `known` (None: any); unknown ones are errors.

        `elsewhere` says of keys that belong to another place where they are written.
        """
        self.node = node
        self.path = path
        self.findings = findings
        self._entries = node.entries
        self._has_unknown = False
        if known is not None:
            for key in self._entries:
                if key not in known:
                    self._has_unknown = True
                    meant = elsewhere.get(key)
                    self.error(
                        "unknown-field", f"unknown field `{shown(self.at(key))}`", key,
                        f"did you mean `{meant}`?" if meant else suggestion(key, known),
                    )  # fmt: skip

    def at(self, key: str) -> str:
        """Return the dotted name of a key."""
        return f"{self.path}.{key}" if self.path else key

    def place(self, key: str) -> Location:
        """Return where `key` stands, or where the mapping begins when it is absent."""
        return self.node.key_locations.get(key, self.node.location)

    def error(self, code: str, message: str, key: str = "", help_: str = "") -> None:
        """Add an error about a key, or about the mapping itself."""
        path = shown(self.at(key)) if key else self.path
        self.findings.error(code, message, self.place(key), help_, path=path)

    def warning(self, code: str, message: str, key: str = "", help_: str = "") -> None:
        """Add a warning about a key, or about the mapping itself."""
        path = shown(self.at(key)) if key else self.path
        self.findings.warning(code, message, self.place(key), help_, path=path)

    def item_path(self, key: str, value: Value) -> str:
        """Return the name of an item of the list at `key`: `...principals[1]`."""
        for index, item in enumerate(self.items(key)):
            if item.location == value.location:
                return f"{self.at(key)}[{index}]"
        return self.at(key)

    def has(self, key: str) -> bool:
        """Whether `key` is written with a value other than null."""
        node = self._entries.get(key)
        return node is not None and not (node.__class__ is YamlScalar and node.value is None)

    def lacks(self, key: str) -> bool:
        """Whether `key` is absent, null, or an empty text, list or mapping."""
        node = self._entries.get(key)
        if isinstance(node, YamlScalar):
            return node.value is None or node.value == ""
        if isinstance(node, YamlList):
            return not node.items
        return node is None or not node.entries

    def misses(self, key: str) -> bool:
        """Whether it lacks `key`, and no unknown key here may be that one misspelt."""
        return self.lacks(key) and not self._has_unknown

    def is_hollow(self) -> bool:
        """Whether nothing that is written here holds anything."""
        return all(map(self.lacks, self._entries))

    def wrong_type(self, key: str, expected: str) -> None:
        """Report that the value of `key` has the wrong type."""
        node = self._entries[key]
        self.findings.error(
            "wrong-type",
            f"`{shown(self.at(key))}` must be {expected}, not {kind_of(node)}",
            node.location,
            "quote it" if isinstance(node, YamlScalar) and expected == "text" else "",
            path=shown(self.at(key)),
        )

    def text(self, key: str, default: str = "") -> str:
        """Return the text at `key`."""
        node = self._entries.get(key)
        if isinstance(node, YamlScalar) and isinstance(node.value, str):
            return node.value
        if self.has(key):
            self.wrong_type(key, "text")
        return default

    def boolean(self, key: str, *, default: bool = False) -> bool:
        """Return the boolean at `key`."""
        if not self.has(key):
            return default
        node = self._entries[key]
        if isinstance(node, YamlScalar) and isinstance(node.value, bool):
            return node.value
        self.wrong_type(key, "true or false")
        return default

    def mapping(self, key: str) -> YamlMap | None:
        """Return the mapping at `key`, or None when absent or of another type."""
        node = self._entries.get(key)
        if isinstance(node, YamlMap):
            return node
        if self.has(key):
            self.wrong_type(key, "a mapping")
        return None

    def child(
        self,
        key: str,
        known: Collection[str] | None = None,
        elsewhere: Mapping[str, str] = _NOWHERE,
    ) -> Fields | None:
        """Return the fields of the mapping at `key`, or None when absent."""
        node = self.mapping(key)
        if node is None:
            return None
        return Fields(node, self.at(key), self.findings, known, elsewhere)

    def items(self, key: str) -> tuple[YamlNode, ...]:
        """Return the items of the list at `key`; absent reads as empty."""
        node = self._entries.get(key)
        if node is None:
            return ()
        if isinstance(node, YamlList):
            return node.items
        if self.has(key):
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
                    "wrong-type", f"`{path}` must be a mapping, not {kind_of(item)}",
                    item.location, "remove it, or write its fields", path=path,
                )  # fmt: skip

    def values(self, key: str) -> tuple[Value, ...]:
        """Return the texts of the list at `key`; an empty text is an error."""
        if key not in self._entries:
            return ()
        found: list[Value] = []
        for index, item in enumerate(self.items(key)):
            text = item.value if item.__class__ is YamlScalar else None
            if text and isinstance(text, str):
                # The same few methods, ports and accounts stand in thousands of policies.
                found.append(Value(intern(text), item.location))
                continue
            path = f"{self.at(key)}[{index}]"
            if text == "":
                self.findings.error(
                    "empty-value", f"`{path}` is empty", item.location, "remove it, or write it",
                    path=path,
                )  # fmt: skip
            else:
                self.findings.error(
                    "wrong-type", f"`{path}` must be text, not {kind_of(item)}", item.location,
                    "quote it", path=path,
                )  # fmt: skip
        return tuple(found)

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the texts of the list at `key` without their places."""
        return tuple(value.text for value in self.values(key))

    def text_map(self, key: str) -> dict[str, str]:
        """Return the text-to-text mapping at `key`."""
        fields = self.child(key)
        if fields is None:
            return {}
        texts = {name: fields.text(name) for name in fields.node.entries}
        return {name: text for name, text in texts.items() if text or fields.lacks(name)}


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the help for a name that is not among `known`: its neighbour, or all of them."""
    near = difflib.get_close_matches(name, known, n=1) if len(name) <= _MAX_NAME else []
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}"


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
            return f"the text `{shown(node.value)}`"
