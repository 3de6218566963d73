"""Rego's values on Python's: equality, order, sets, and the ways in and out.

A text is a `str`, an array a `list`, an object a `dict` whose keys are texts in order, a set
a `RegoSet`. INVARIANT: numbers are whole ones of 64 bits or doubles below 2^53, texts hold no
half of a surrogate pair; `admit` is the only way in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from opa_bridge.errors import EngineError, EngineInputError

# BUDGET: nesting of input and result; OPA users' documents stay below 20.
MAX_DEPTH: Final = 128
_INT64: Final = range(-(2**63), 2**63)
# Up to here a double is what its text says; OPA compares the texts.
_EXACT: Final = float(2**53)
# BUDGET: values of an input that are looked through here, in some ten milliseconds; what has
# more is the library's, behind a faster way to JSON.
_VALUES_MOST: Final = 20_000
_HALF: Final = re.compile("[\ud800-\udfff]")


class Undefined:
    """The type of UNDEFINED, which is no value of Rego."""

    __slots__ = ()


UNDEFINED: Final = Undefined()


class Inexact(Exception):
    """A value that is not compared here as OPA compares it; the library is asked instead."""


class RegoSet:
    """A set of values; what is equal by `key_of` is one member."""

    __slots__ = ("_members", "_sorted")

    def __init__(self, values: Iterable[Any] = ()) -> None:
        """Take the values."""
        self._members = {key_of(value): value for value in values}
        self._sorted: list[Any] | None = None

    def __len__(self) -> int:
        """Return how many members there are."""
        return len(self._members)

    def __contains__(self, value: object) -> bool:
        """Return whether a value is a member."""
        return key_of(value) in self._members

    def __iter__(self) -> Iterator[Any]:
        """Yield the members in OPA's order."""
        if self._sorted is None:
            self._sorted = sorted(self._members.values(), key=rank)
        return iter(self._sorted)

    def keys(self) -> frozenset[Any]:
        """Return what the members are told apart by."""
        return frozenset(self._members)


def key_of(value: Any) -> Any:
    """Return what two values share exactly when they are equal, and that can be hashed.

    1 and 1.0 are one number to Rego as to Python; true and 1 are not.
    """
    if isinstance(value, bool):
        return (value,)
    if isinstance(value, list):
        return ("array", *map(key_of, value))
    if isinstance(value, dict):
        return ("object", *((key, key_of(item)) for key, item in value.items()))
    if isinstance(value, RegoSet):
        return ("set", value.keys())
    return value


def is_equal(left: Any, right: Any) -> bool:
    """Return whether two values are equal."""
    if type(left) is str or type(right) is str:
        return bool(left == right)
    return bool(key_of(left) == key_of(right))


def rank(value: Any) -> tuple[Any, ...]:
    """Return what values are ordered by: null, booleans, numbers, texts, arrays, objects, sets."""
    match value:
        case None:
            return (0,)
        case bool():
            return (1, value)
        case int() | float():
            return (2, value)
        case str():
            # Texts are ordered by their UTF-8, which is the order of their code points.
            return (3, value)
        case list():
            return (4, [rank(each) for each in value])
        case dict():
            return (5, [(key, rank(each)) for key, each in sorted(value.items())])
        case _:
            return (6, [rank(each) for each in value])


def admit(document: Any, most: int = _VALUES_MOST) -> Any:
    """Return a JSON document of so many values at most.

    Raises:
        EngineInputError: it is none, or is nested too deep.
        Inexact: it holds a double of 2^53 or more, or very many values.
    """
    return _Admission(most).admit(document, MAX_DEPTH)


class _Admission:
    """One document on its way in; it counts what it has seen."""

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def admit(self, value: Any, depth: int) -> Any:
        """Return a value of the document, which may be nested so deep."""
        if depth == 0:
            raise EngineInputError(f"the input is nested deeper than {MAX_DEPTH}")
        kind = type(value)
        if kind is str:
            return _text(value)
        if value is None or kind is bool:
            return value
        if kind is int or kind is float:
            return _number(value)
        if isinstance(value, Mapping):
            return self._object(value, depth - 1)
        if isinstance(value, (list, tuple)):
            self._count(len(value))
            return [self.admit(each, depth - 1) for each in value]
        return _of_subclass(value)

    def _object(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        self._count(len(value))
        found = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise EngineInputError("the input holds an object key that is not a text")
            found[_text(key)] = self.admit(item, depth)
        return dict(sorted(found.items())) if len(found) > 1 else found

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise Inexact("the input holds very many values")


def _text(value: str) -> str:
    """Return a text of which each half of a surrogate pair is U+FFFD, as in Go."""
    return value if value.isascii() else _HALF.sub("\ufffd", value)


def _number(value: float) -> float:
    if type(value) is int:
        if value not in _INT64:
            raise EngineInputError("the input holds an integer of more than 64 bits")
        return value
    if not math.isfinite(value):
        raise EngineInputError("the input holds a number that is not finite")
    if abs(value) >= _EXACT:
        raise Inexact("the input holds a number beyond 2^53 that is no integer")
    return value


def _of_subclass(value: Any) -> Any:
    """Return a text or number of another class as the plain one."""
    if isinstance(value, str):
        return _text(str.__str__(value))
    if isinstance(value, int):
        return _number(int(value))
    if isinstance(value, float):
        return _number(float(value))
    raise EngineInputError(f"the input holds a {type(value).__name__}, which is no JSON value")


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a value as a JSON document; a set is an array in OPA's order.

    Raises:
        EngineError: it is nested deeper than `depth`.
    """
    if depth == 0:
        raise EngineError(f"the result is nested deeper than {MAX_DEPTH}")
    if isinstance(value, (list, RegoSet)):
        return [plain(each, depth - 1) for each in value]
    if isinstance(value, dict):
        return {key: plain(each, depth - 1) for key, each in value.items()}
    return value
