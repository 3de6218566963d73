"""YAML as OPA reads it: the scalars of YAML 1.2's core schema with a few of 1.1's numbers.

Theory of operation. PyYAML knows YAML 1.1, where `on` is true, `1:30` is 90 and a date is
no text; OPA's reader knows none of these. Data that two readers take for different values would
decide otherwise here than there, so scalars follow OPA's reader (measured with OPA 1.22), and
what JSON cannot say is refused. PyYAML's parser gives the events; the value is built from them
without recursion, for its own way ends the process on deep nesting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import yaml

from opa_bridge.bundle_json import (
    MAX_DEPTH,
    Literal,
    check_value,
    read_json,
    read_literal_json,
    refused,
)
from opa_bridge.errors import PolicyBundleError

# BUDGET: YAML is read some twenty times slower than JSON; larger data belong into JSON.
MAX_YAML_BYTES: Final = 8 * 1024 * 1024
_TAG: Final = "tag:yaml.org,2002:"
_WHOLE: Final = re.compile(
    r"[-+]?(?:0[bB][01]+|0[oO][0-7]+|0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", re.ASCII
)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_NUMERIC: Final = re.compile(r"[-+.0-9][-+.0-9a-zA-Z_]*", re.ASCII)
_NOT_FINITE: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII)
_WORDS: Final = {
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
}  # fmt: skip
_INT64: Final = range(-(2**63), 2**63)
_UINT64: Final = range(2**64)
# Where Go's encoder changes to an exponent (encoding/json, `floatEncoder`).
_SMALL, _LARGE = 1e-6, 1e21
# libyaml where PyYAML was built with it: the same events, ten times faster.
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE: Final = object()


class _Unfit(Exception):
    """What the document holds that is not taken."""


@dataclass(slots=True)
class _Open:
    """A mapping or sequence under way; a mapping's items are keys and values in turn."""

    is_mapping: bool
    anchor: str | None
    items: list[Any] = field(default_factory=list)


def read_yaml(raw: bytes, file: str) -> Any:
    """Return the value of a YAML file; one that is JSON is read as such, as by OPA.

    Raises:
        PolicyBundleError: it is neither, or holds what JSON cannot say.
    """
    value = _read(raw, file, is_literal=False)
    check_value(value, file)
    return value


def read_literal_yaml(raw: bytes, file: str) -> Any:
    """Return the value of a YAML file, each number as OPA spells it.

    Raises:
        PolicyBundleError: it is no YAML, or holds what JSON cannot say.
    """
    return _read(raw, file, is_literal=True)


def _read(raw: bytes, file: str, *, is_literal: bool) -> Any:
    try:
        return read_literal_json(raw, file) if is_literal else read_json(raw, file)
    except PolicyBundleError:
        pass
    if len(raw) > MAX_YAML_BYTES:
        raise refused(file, f"is larger than {MAX_YAML_BYTES} bytes", "write it as JSON")
    try:
        events = yaml.parse(raw.decode("utf-8"), Loader=_LOADER)
        return _Builder(is_literal=is_literal).value_of(events)
    except UnicodeDecodeError as exc:
        raise refused(file, f"is not UTF-8 at byte {exc.start}") from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise refused(file, f"is no YAML: {exc.problem} at line {line}") from exc
    except yaml.YAMLError as exc:
        raise refused(file, "is no YAML") from exc
    except _Unfit as exc:
        raise refused(file, str(exc)) from exc


class _Builder:
    """Builds the value of one document from its events."""

    def __init__(self, *, is_literal: bool) -> None:
        self._is_literal = is_literal
        self._open: list[_Open] = []
        self._anchors: dict[str, Any] = {}
        self._done: list[Any] = []

    def value_of(self, events: Iterable[Any]) -> Any:
        """Return the document's value; an empty stream is null, as for OPA."""
        documents = 0
        for event in events:
            documents += isinstance(event, yaml.DocumentStartEvent)
            # OPA takes the first and drops the others without a word.
            if documents > 1:
                raise _Unfit("holds more than one document")
            self._take(event)
        return self._done[0] if self._done else None

    def _take(self, event: Any) -> None:
        match event:
            case yaml.ScalarEvent():
                value = self._scalar(event)
                self._name(event.anchor, value)
                self._put(value)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                ended = self._open.pop()
                value = _mapping(ended.items) if ended.is_mapping else ended.items
                self._name(ended.anchor, value)
                self._put(value)
            case yaml.AliasEvent():
                if event.anchor not in self._anchors:
                    raise _Unfit(f"uses `*{event.anchor}` before it is whole")
                self._put(self._anchors[event.anchor])
            case _:
                pass

    def _begin(self, event: Any) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        wanted = f"{_TAG}map" if is_mapping else f"{_TAG}seq"
        if event.tag not in (None, "!", wanted):
            raise _tagged(event)
        if len(self._open) >= MAX_DEPTH:
            raise _Unfit(f"is nested deeper than {MAX_DEPTH}")
        # A name given again stands for the new value from here on.
        self._anchors.pop(event.anchor, None)
        self._open.append(_Open(is_mapping, event.anchor))

    def _scalar(self, event: Any) -> Any:
        is_plain = event.implicit[0] and not event.style
        if event.tag not in (None, "!", f"{_TAG}str"):
            raise _tagged(event)
        if not is_plain or event.tag is not None:
            return event.value
        if event.value == "<<":
            return _MERGE if self._stands_for_a_key() else "<<"
        return _scalar(event.value, is_literal=self._is_literal)

    def _stands_for_a_key(self) -> bool:
        return bool(self._open) and self._open[-1].is_mapping and len(self._open[-1].items) % 2 == 0

    def _name(self, anchor: str | None, value: Any) -> None:
        if anchor is not None:
            self._anchors[anchor] = value

    def _put(self, value: Any) -> None:
        (self._open[-1].items if self._open else self._done).append(value)


def _mapping(items: list[Any]) -> dict[str, Any]:
    """Return an object: the last of equal keys counts, and merged ones give way to it."""
    given: dict[str, Any] = {}
    merged: list[Any] = []
    for key, value in zip(items[::2], items[1::2], strict=True):
        if key is _MERGE:
            merged += value if isinstance(value, list) else [value]
        else:
            given[_key(key)] = value
    for other in merged:
        if not isinstance(other, dict):
            raise _Unfit("merges (`<<`) something that is no mapping")
        # YAML's merge type: "keys in mapping nodes earlier in the sequence override".
        given = {**other, **given}
    return given


def _tagged(event: Any) -> _Unfit:
    return _Unfit(f"has the tag `{event.tag}` at line {event.start_mark.line + 1}")


def _scalar(text: str, *, is_literal: bool) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if not _NUMERIC.fullmatch(text):
        return text
    if _NOT_FINITE.fullmatch(text):
        raise _Unfit(f"holds `{text}`, which is no JSON number")
    # A number that begins with a dot has no room for `_`.
    plain = text if text.startswith(".") else text.replace("_", "")
    found: int | float | None = None if text.startswith(".") else _whole(plain)
    if found is None and _FLOAT.fullmatch(plain):
        found = float(plain)
    if found is None or found in (float("inf"), float("-inf")):
        return text
    # OPA goes by the text that it writes for a number: 5e16 is a whole one from there on.
    spelled = _spelled(found)
    return Literal(spelled) if is_literal else json.loads(spelled)


def _whole(text: str) -> int | None:
    """Return a whole number of 64 bits, in base 2, 8, 10 or 16."""
    if not _WHOLE.fullmatch(text):
        return None
    body = text.lstrip("+-")
    # YAML 1.1: a leading zero means octal.
    value = int(body, 8) if body.isdigit() and body.startswith("0") else int(body, 0)
    value = -value if text.startswith("-") else value
    # Go's ParseUint knows no sign.
    return value if value in _INT64 or (value in _UINT64 and text[0] != "+") else None


def _key(value: Any) -> str:
    """Return a key as the text that it has in JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    raise _Unfit("has a key that is neither text, whole number nor boolean")


def _spelled(value: int | float) -> str:
    """Return a number as Go's JSON encoder writes it.

    >>> _spelled(1.0), _spelled(1e21), _spelled(1e-7), _spelled(1.5)
    ('1', '1e+21', '1e-7', '1.5')
    """
    if isinstance(value, int):
        return str(value)
    size = abs(value)
    if size != 0 and (size < _SMALL or size >= _LARGE):
        mantissa, _, exponent = repr(value).partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent):+d}"
    return f"{Decimal(repr(value)):f}".removesuffix(".0")
