"""YAML text to trees that remember where each piece stands.

Theory of operation. libyaml's events become nodes as they come, so a text that
breaks a budget is refused where it does so and not after it was read whole.
- A key counts once: duplicate keys are refused, and so are merge keys and tags.
- An alias is the node it names, not a copy; what it adds is counted all the same.
- Scalars mean what `kubectl apply` makes of them: plain `yes` and `on` are
  booleans, `0777` and `0x1f` are numbers, dates stay text, quoted text is always text.
- The first fault of a text is the only one told: what follows it is guesswork.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator
from typing import Any, Final, NamedTuple

import yaml

from policies.diagnostic import Diagnostic, LoadError, Location, shown

MAX_BYTES = 16 * 1024 * 1024
"""The largest text: a file of 10,000 policies is half of it."""
MAX_NODES = 1_000_000
"""The most nodes and keys of a text."""
TOO_LARGE = f"larger than {MAX_BYTES // 1024 // 1024} MiB"
"""What is said of a larger one."""
# BUDGET: a policy is 10 levels deep, Kubernetes' own metadata less than 20.
_MAX_DEPTH = 64
# BUDGET: etcd holds no object above 1.5 MiB, and a value takes some 15 bytes of it.
_MAX_RESOURCE_NODES = 100_000
# BUDGET: nobody writes policies with aliases; alias bombs are made of nothing else.
_MAX_ALIASED_NODES = 10_000
# BUDGET: etcd's limit again; the largest honest text is an inline key set of some KiB.
_MAX_SCALAR = 1024 * 1024
# BUDGET: int() and float() of a very long text are quadratic.
_MAX_DIGITS = 64
_TOO_MANY = 10**_MAX_DIGITS
_SIGNED_END = 2**63
_STEADY_DIGITS = 7
_RESOURCE_DEPTH = 2
_Scalar: Final = yaml.ScalarEvent

_BOOLEANS = {
    spelled: value
    for word, value in {
        "true": True, "yes": True, "on": True, "y": True,
        "false": False, "no": False, "off": False, "n": False,
    }.items()
    for spelled in (word, word.capitalize(), word.upper())
}  # fmt: skip
_WORDS: dict[str, bool | None] = {
    **_BOOLEANS, **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}  # fmt: skip
_ODD_KEYS = frozenset({*_WORDS, "<<"})
_NUMBER_START = frozenset("0123456789+-.")
_BASES = {"hex": 16, "two": 2, "eight": 8}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_OTHER_BASE = re.compile(
    r"(?P<sign>[-+]?)0(?:[xX](?P<hex>[0-9a-fA-F]+)|[bB](?P<two>[01]+)"
    r"|[oO]?(?P<eight>[0-7]+))",
    re.ASCII,
)
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
_STRAY_SEPARATOR = re.compile(r"(?<![0-9])_|_(?![0-9])", re.ASCII)
_NOT_A_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", re.ASCII)
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_MARKED_LINE = re.compile("(?m)^(?P<before>.*)\n\ufeff")
_TEXT_TAGS = frozenset({"!", "tag:yaml.org,2002:str"})
_TREE_TAGS = frozenset({"!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_TAG_PREFIX = "tag:yaml.org,2002:"
# What the author may do about the faults that libyaml meets most.
_YAML_HELP = (
    ("mapping values are not allowed", "quote a text that holds `: `, or indent it further"),
    ("could not find expected ':'", "a key needs `: ` after it, and a quote its end"),
    ("unexpected end of stream", "a quote or a bracket is never closed"),
    ("did not find expected", "look for a bracket, a comma or an indent that is off above it"),
)


class YamlScalar(NamedTuple):
    """A leaf: text, number, boolean or null."""

    value: str | int | float | bool | None
    location: Location

    def plain(self) -> Any:
        """Return the bare value."""
        return self.value


class YamlList(NamedTuple):
    """A sequence of nodes."""

    items: tuple[YamlNode, ...]
    location: Location

    def plain(self) -> Any:
        """Return the bare list."""
        return [item.plain() for item in self.items]


class YamlMap(NamedTuple):
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
        LoadError: the text is not YAML, or holds a duplicate key, a merge key, a tag,
            a key that is not text, or more than the budget allows.
    """
    return tuple(iter_documents(text, file))


def iter_documents(text: str, file: str, first_line: int = 1) -> Generator[YamlNode, None, int]:
    """Yield the documents of `text` as `parse_documents` returns them, one at a time.

    `first_line` is where the text stands in its file. Returns how many nodes and keys there were.

    Raises:
        LoadError: as `parse_documents`, when the fault is reached.
    """
    if len(text) > MAX_BYTES:
        raise _refusal(Location(file), TOO_LARGE, "split the file")
    if "\ufeff" in text:
        _check_marks(text, file, first_line)
    try:
        return (yield from _TreeBuilder(text, file, first_line).documents())
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        line, column = (mark.line + first_line, mark.column + 1) if mark else (0, 0)
        problem = exc.problem or exc.context or "the text cannot be read"
        help_ = _yaml_help(problem, text, exc.problem_mark)
        raise _refusal(Location(file, line, column), f"not valid YAML: {problem}", help_) from exc
    except (yaml.YAMLError, UnicodeEncodeError) as exc:
        raise _forbidden(text, file, first_line) from exc


def _refusal(location: Location, message: str, help_: str = "") -> LoadError:
    return LoadError(
        [Diagnostic(code="yaml-invalid", message=message, location=location, help=help_)]
    )


def _yaml_help(problem: str, text: str, mark: Any) -> str:
    lines = text.split("\n")
    if mark and mark.line < len(lines) and lines[mark.line][mark.column : mark.column + 1] == "\t":
        return "indent with spaces, not with tabs"
    return next((help_ for part, help_ in _YAML_HELP if part in problem), "")


def _check_marks(text: str, file: str, first_line: int) -> None:
    """Refuse a byte order mark that begins a line: to `kubectl` it is a part of the key there.

    At the begin of a text or of a document it is none.
    """
    for found in _MARKED_LINE.finditer(text):
        if not found["before"].startswith("---"):
            line = text.count("\n", 0, found.end()) + first_line
            raise _refusal(
                Location(file, line, 1), "not valid YAML: the character U+FEFF is not allowed here"
            )


def _forbidden(text: str, file: str, first_line: int) -> LoadError:
    """Return the refusal of the first character that YAML does not allow."""
    found = _FORBIDDEN.search(text)
    if found is None:
        return _refusal(Location(file), "not valid YAML: the text has a forbidden byte")
    line = text.count("\n", 0, found.start()) + first_line
    column = found.start() - text.rfind("\n", 0, found.start())
    name = f"U+{ord(found.group()):04X}"
    return _refusal(
        Location(file, line, column), f"not valid YAML: the character {name} is not allowed"
    )


# WHY: a named tuple's own constructor is Python, and takes three times as long as the tuple's.
_tuple: Callable[..., Any] = tuple.__new__


class _TreeBuilder:
    """Turns events into trees, counting as it goes. One use only."""

    def __init__(self, text: str, file: str, first_line: int) -> None:
        self._next: Callable[[], Any] = yaml.CSafeLoader(text).get_event
        self._file = file
        self._first_line = first_line
        self._nodes = 0
        self._resource_start = 0
        self._aliased = 0
        # A node of an anchor and its size; None while the node is being read.
        self._anchors: dict[str, tuple[YamlNode, int] | None] = {}

    def documents(self) -> Generator[YamlNode, None, int]:
        """Yield the documents that hold anything; return how many nodes and keys there were."""
        while not isinstance(event := self._next(), yaml.StreamEndEvent):
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                tree = self._node(self._next(), 0)
                if not (isinstance(tree, YamlScalar) and tree.value is None):
                    yield tree
        return self._nodes

    def _node(self, event: Any, depth: int) -> YamlNode:
        """Return the node that begins with `event`; `depth` is 0 at the root."""
        mark = event.start_mark
        line = mark.line + self._first_line
        location: Location = _tuple(Location, (self._file, line, mark.column + 1))
        self._nodes = nodes = self._nodes + 1
        if nodes - self._resource_start > _MAX_RESOURCE_NODES or nodes > MAX_NODES:
            self._refuse_size(location)
        if event.__class__ is _Scalar and event.anchor is None:
            scalar: YamlScalar = _tuple(YamlScalar, (_scalar_value(event, location), location))
            return scalar
        return self._other_node(event, location, depth)

    def _other_node(self, event: Any, location: Location, depth: int) -> YamlNode:
        """Return a mapping, a list, an alias or a scalar with an anchor."""
        if event.__class__ is yaml.AliasEvent:
            return self._alias(str(event.anchor), location)
        if depth > _MAX_DEPTH:
            raise _refusal(location, f"nested deeper than {_MAX_DEPTH} levels")
        if depth <= _RESOURCE_DEPTH:
            self._resource_start = self._nodes
        start, anchor = self._nodes - 1, event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        node: YamlNode
        if event.__class__ is _Scalar:
            node = YamlScalar(_scalar_value(event, location), location)
        else:
            if event.tag is not None and event.tag not in _TREE_TAGS:
                raise _unknown_tag(event.tag, location)
            is_map = event.__class__ is yaml.MappingStartEvent
            node = self._map(location, depth) if is_map else self._list(location, depth)
        if anchor is not None:
            self._anchors[anchor] = (node, self._nodes - start)
        return node

    def _list(self, location: Location, depth: int) -> YamlList:
        items: list[YamlNode] = []
        next_event, end = self._next, yaml.SequenceEndEvent
        while (event := next_event()).__class__ is not end:
            items.append(self._node(event, depth + 1))
        return YamlList(tuple(items), location)

    def _map(self, location: Location, depth: int) -> YamlMap:
        entries: dict[str, YamlNode] = {}
        places: dict[str, Location] = {}
        next_event, end, file = self._next, yaml.MappingEndEvent, self._file
        first_line = self._first_line
        while (event := next_event()).__class__ is not end:
            mark = event.start_mark
            place: Location = _tuple(Location, (file, mark.line + first_line, mark.column + 1))
            key = self._key(event, place)
            if key in entries:
                first = places[key].line
                raise _refusal(
                    place, f"duplicate key `{shown(key)}`, first written on line {first}",
                    "keep one",
                )  # fmt: skip
            self._nodes += 1
            entries[key] = self._node(next_event(), depth + 1)
            places[key] = place
        return YamlMap(entries, places, location)

    @staticmethod
    def _key(event: Any, place: Location) -> str:
        if event.__class__ is not _Scalar:
            raise _refusal(place, "a mapping key must be text")
        key: str = event.value
        if event.tag is not None:
            if event.tag not in _TEXT_TAGS:
                raise _unknown_tag(event.tag, place)
        elif not event.style and (key in _ODD_KEYS or key[0] in _NUMBER_START):
            _check_plain_key(key, place)
        return key

    def _alias(self, anchor: str, location: Location) -> YamlNode:
        found = self._anchors.get(anchor)
        if found is None:
            why = "names a node it stands in" if anchor in self._anchors else "has no anchor"
            raise _refusal(location, f"the alias `*{shown(anchor)}` {why}")
        node, size = found
        self._nodes += size
        self._aliased += size
        if self._aliased > _MAX_ALIASED_NODES:
            why = f"aliases add more than {_MAX_ALIASED_NODES} nodes"
            raise _refusal(location, why, "write the values out")
        return node

    def _refuse_size(self, location: Location) -> None:
        if self._nodes > MAX_NODES:
            raise _refusal(location, f"more than {MAX_NODES} nodes", "split the file")
        raise _refusal(location, f"more than {_MAX_RESOURCE_NODES} nodes in one resource")


def is_text(plain: str) -> bool:
    """Whether a plain scalar, which is not empty, means the text that is written."""
    if plain[0] not in _NUMBER_START:
        return plain not in _WORDS
    return not _NOT_A_NUMBER.fullmatch(plain) and isinstance(_number(plain), str)


def _scalar_value(event: Any, location: Location) -> str | int | float | bool | None:
    """Return what a scalar means; quoted text is always text."""
    text: str = event.value
    if len(text) > _MAX_SCALAR:
        raise _refusal(location, f"a text of more than {_MAX_SCALAR} characters")
    if event.tag is not None:
        if event.tag not in _TEXT_TAGS:
            raise _unknown_tag(event.tag, location)
        return text
    # A plain scalar has no style; libyaml says so with an empty text.
    if event.style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _NOT_A_NUMBER.fullmatch(text):
        raise _refusal(location, f"`{text}` is a number that JSON has not", "quote it")
    return _number(text)


def _number(text: str) -> str | int | float:
    """Return the number, or the text: dates and `1:30` are texts, `080` is eighty."""
    # Behind a leading dot, and only there, a `_` must stand between digits.
    if text[0] == "." and _STRAY_SEPARATOR.search(text):
        return text
    plain = text.replace("_", "")
    if len(plain) > _MAX_DIGITS:
        # Larger than anything that a number is asked for.
        return _TOO_MANY if _FLOAT.fullmatch(plain) else text
    if _INTEGER.fullmatch(plain):
        return int(plain)
    found = _OTHER_BASE.fullmatch(plain)
    integer = None if found is None else _in_other_base(found)
    if integer is not None:
        return integer
    number = float(plain) if _FLOAT.fullmatch(plain) else math.inf
    # What is too large for a float is no number to `kubectl` either.
    return text if math.isinf(number) else number


def _in_other_base(found: re.Match[str]) -> int | None:
    """Return the integer, or None for one that 64 bits do not hold."""
    digits, base = next(
        (found[name], base) for name, base in _BASES.items() if found[name] is not None
    )
    number = int(found["sign"] + digits, base)
    return number if -_SIGNED_END <= number < _SIGNED_END * (1 if found["sign"] else 2) else None


def _check_plain_key(key: str, place: Location) -> None:
    """Refuse a key that is another one to `kubectl`: `on` becomes `true`, `010` becomes `8`."""
    if key == "<<":
        raise _refusal(place, "the merge key `<<` is not supported", "write the keys out")
    is_word = key in _WORDS
    if is_word or (key[0] in _NUMBER_START and not _is_steady(key)):
        word = "null" if _WORDS.get(key) is None else "a boolean"
        what = word if is_word else "a number"
        raise _refusal(place, f"a mapping key must be text, and `{shown(key)}` is {what}",
                       "quote it")  # fmt: skip


def _is_steady(key: str) -> bool:
    """Whether a key stays as it is written when `kubectl` has read it as what it is."""
    if _NOT_A_NUMBER.fullmatch(key):
        return False
    number = _number(key)
    if isinstance(number, float):
        # It is written anew with the digits of 32 bits, and without those that say nothing.
        is_short = len(key) <= _STEADY_DIGITS and not number.is_integer() and "e" not in key
        return str(number) == key and is_short
    return str(number) == key and (isinstance(number, str) or abs(number) < _SIGNED_END)


def _unknown_tag(tag: str, location: Location) -> LoadError:
    written = "!!" + tag.removeprefix(_TAG_PREFIX) if tag.startswith(_TAG_PREFIX) else tag
    return _refusal(location, f"the tag `{shown(written)}` is not supported", "remove it")
