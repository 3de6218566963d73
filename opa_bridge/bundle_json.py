"""JSON as a bundle's files hold it, and the canonical form that OPA hashes.

Theory of operation. OPA signs what a structured file means, not its bytes: it is parsed, keys
are sorted, and numbers keep the spelling they had. So a file is read a second time for its
hash, with every number as a `Literal`.

Spec: OPA, "Bundles", section "Signature Format"; RFC 8259.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from opa_bridge.errors import PolicyBundleError

# BUDGET: nesting that the engine takes as well (`rego_library.MAX_DEPTH`).
MAX_DEPTH: Final = 128
# BUDGET: values in one document, counted wherever they are used: YAML may use one many times.
MAX_VALUES: Final = 5_000_000
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_ESCAPED: Final = re.compile('[\x00-\x1f"\\\\\u2028\u2029]')
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


class Literal(str):
    """A number in the spelling of its file."""

    __slots__ = ()


def read_json(raw: bytes, file: str) -> Any:
    """Return the value of a JSON file.

    Raises:
        PolicyBundleError: it is no JSON, or holds what the engine cannot take.
    """
    value = _parsed(raw, file, is_literal=False)
    check_value(value, file)
    return value


def read_literal_json(raw: bytes, file: str) -> Any:
    """Return the value of a JSON file, each number as the text that stands for it.

    Raises:
        PolicyBundleError: it is no JSON.
    """
    return _parsed(raw, file, is_literal=True)


def check_value(value: Any, file: str) -> None:
    """Refuse what is deeper, larger or of other types than the engine takes.

    Raises:
        PolicyBundleError: which of it.
    """
    level: list[Any] = [value]
    count = depth = 0
    while level:
        count += len(level)
        depth += 1
        if depth > MAX_DEPTH:
            raise refused(file, f"is nested deeper than {MAX_DEPTH}")
        if count > MAX_VALUES:
            raise refused(file, f"holds more than {MAX_VALUES} values")
        level = list(_below(level, file, MAX_VALUES - count))


def canonical(value: Any) -> bytes:
    """Return the bytes that OPA hashes for a value: sorted keys, no blanks.

    >>> canonical({"b": [Literal("1.0"), None], "a": "<é>"}).decode()
    '{"a":"<é>","b":[1.0,null]}'
    """
    return "".join(_written(value)).encode()


def refused(file: str, why: str, help_: str = "") -> PolicyBundleError:
    """Return the error about a document that is not used."""
    return PolicyBundleError("bundle.data", f"`{file}` {why}", help_)


def _parsed(raw: bytes, file: str, *, is_literal: bool) -> Any:
    whole, broken = (Literal, Literal) if is_literal else (None, None)
    try:
        text = raw.decode("utf-8")
        return json.loads(text, parse_int=whole, parse_float=broken, parse_constant=_no_constant)
    except UnicodeDecodeError as exc:
        raise refused(file, f"is not UTF-8 at byte {exc.start}") from exc
    except RecursionError as exc:
        raise refused(file, f"is nested deeper than {MAX_DEPTH}") from exc
    except json.JSONDecodeError as exc:
        raise refused(file, f"is no JSON: {exc.msg} at line {exc.lineno}") from exc
    except ValueError as exc:
        # A constant that JSON does not have, or more digits than Python takes.
        raise refused(file, "holds a number that cannot be read") from exc


def _below(level: Iterable[Any], file: str, room: int) -> Iterator[Any]:
    """Yield the values one level further down; refuse a value that JSON or the engine lacks."""
    for value in level:
        if isinstance(value, dict):
            for key in value:
                _check_text(key, file)
            room -= len(value)
            yield from _bounded(value.values(), room, file)
        elif isinstance(value, list):
            room -= len(value)
            yield from _bounded(value, room, file)
        elif isinstance(value, str):
            _check_text(value, file)
        elif isinstance(value, float) and not math.isfinite(value):
            raise refused(file, "holds a number that is not finite")


def _bounded(values: Iterable[Any], room: int, file: str) -> Iterable[Any]:
    if room < 0:
        raise refused(file, f"holds more than {MAX_VALUES} values")
    return values


def _check_text(text: str, file: str) -> None:
    # OPA puts U+FFFD in place of half a pair; what is so altered was a mistake.
    if not text.isascii() and _SURROGATE.search(text):
        raise refused(file, "holds half of a surrogate pair")


def _written(value: Any) -> Iterator[str]:
    match value:
        case Literal():
            yield str(value)
        case str():
            yield _quoted(value)
        case bool() | None:
            yield {True: "true", False: "false", None: "null"}[value]
        case dict():
            # Go sorts by bytes of UTF-8, which is the order of code points.
            for sign, key in zip(_signs("{"), sorted(value), strict=False):
                yield f"{sign}{_quoted(key)}:"
                yield from _written(value[key])
            yield "}" if value else "{}"
        case list():
            for sign, item in zip(_signs("["), value, strict=False):
                yield sign
                yield from _written(item)
            yield "]" if value else "[]"
        case _:
            yield str(value)


def _signs(first: str) -> Iterator[str]:
    yield first
    while True:
        yield ","


def _quoted(text: str) -> str:
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    sign = found[0]
    if sign in '"\\':
        return f"\\{sign}"
    return _SHORT.get(sign) or f"\\u{ord(sign):04x}"


def _no_constant(_text: str) -> Any:
    raise ValueError("not a JSON number")
