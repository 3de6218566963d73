"""The built-ins of the fragment: what OPA answers, or undefined where OPA has an error.

Spec: OPA without `--strict-builtin-errors`: "built-in function calls that encounter
errors [...] evaluate to undefined". A function here returns UNDEFINED for those, and raises
`Inexact` where Python's answer is not surely Go's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from opa_bridge.direct.patterns import matches_glob, matches_regex
from opa_bridge.direct.values import UNDEFINED, Inexact, RegoSet, is_equal, key_of, rank

# Go's `unicode.IsSpace` within ASCII; Python's `str.strip` takes four separators more.
_BLANKS: Final = "\t\n\v\f\r "
# BUDGET: characters of a text that a built-in makes; the library's worker has a limit of memory.
_TEXT_MOST: Final = 1024 * 1024
_PARTS_MOST: Final = 20_000
_WHOLE_MOST: Final = 2**53


def _of_texts(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a built-in of texts: undefined for anything else."""

    def answer(*arguments: Any) -> Any:
        for argument in arguments:
            if type(argument) is not str:
                return UNDEFINED
        return function(*arguments)

    return answer


def _ascii(text: str) -> str:
    """Return a text of which Go and Python have the same notion of case and blanks."""
    if not text.isascii():
        raise Inexact("a text outside ASCII")
    return text


def _split(text: str, delimiter: str) -> list[str]:
    if (text.count(delimiter) if delimiter else len(text)) > _PARTS_MOST:
        raise Inexact("a text is parted into very many")
    return text.split(delimiter) if delimiter else list(text)


def _concat(delimiter: Any, texts: Any) -> Any:
    if type(delimiter) is not str or not isinstance(texts, (list, RegoSet)):
        return UNDEFINED
    found = list(texts)
    if any(type(text) is not str for text in found):
        return UNDEFINED
    _bound(sum(map(len, found)) + len(delimiter) * len(found))
    return delimiter.join(found)


def _replace(text: str, old: str, new: str) -> str:
    if not old:
        # OPA puts `new` between the bytes.
        _ascii(text)
    _bound(len(text) + (text.count(old) * len(new) if len(new) > len(old) else 0))
    return text.replace(old, new)


def _bound(size: int) -> None:
    if size > _TEXT_MOST:
        raise Inexact("a text of more than a megabyte is made")


def _count(value: Any) -> Any:
    return len(value) if isinstance(value, (str, list, dict, RegoSet)) else UNDEFINED


def _get(document: Any, key: Any, default: Any) -> Any:
    if not isinstance(document, dict):
        return UNDEFINED
    if isinstance(key, list):
        raise Inexact("a path of keys")
    return document.get(key, default) if type(key) is str else default


def _is_member(value: Any, collection: Any) -> bool:
    if isinstance(collection, RegoSet):
        return value in collection
    if isinstance(collection, dict):
        collection = collection.values()
    elif not isinstance(collection, list):
        return False
    if type(value) is str:
        # No value but a text equals one.
        return value in collection
    sought = key_of(value)
    return any(key_of(each) == sought for each in collection)


def _order(accepts: Callable[[int], bool]) -> Callable[[Any, Any], bool]:
    """Return a comparison by OPA's order of all values."""

    def compare(left: Any, right: Any) -> bool:
        if type(left) is int and type(right) is int:
            return accepts(left - right)
        low, high = rank(left), rank(right)
        return accepts((low > high) - (low < high))

    return compare


def _calculation(function: Callable[[int, int], int]) -> Callable[[Any, Any], Any]:
    """Return arithmetic on whole numbers; on other numbers and on sets it is the library's."""

    def answer(left: Any, right: Any) -> Any:
        if type(left) is not int or type(right) is not int:
            if all(_is_number(value) or isinstance(value, RegoSet) for value in (left, right)):
                raise Inexact("arithmetic on fractions or sets")
            return UNDEFINED
        result = function(left, right)
        if abs(result) >= _WHOLE_MOST:
            raise Inexact("a whole number beyond 2^53 is worked out")
        return result

    return answer


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


BUILTINS: Final[Mapping[str, tuple[int, Callable[..., Any]]]] = MappingProxyType(
    {
        "equal": (2, is_equal),
        "neq": (2, lambda left, right: not is_equal(left, right)),
        "lt": (2, _order(lambda sign: sign < 0)),
        "lte": (2, _order(lambda sign: sign <= 0)),
        "gt": (2, _order(lambda sign: sign > 0)),
        "gte": (2, _order(lambda sign: sign >= 0)),
        "internal.member_2": (2, _is_member),
        "plus": (2, _calculation(lambda left, right: left + right)),
        "minus": (2, _calculation(lambda left, right: left - right)),
        "mul": (2, _calculation(lambda left, right: left * right)),
        "startswith": (2, _of_texts(lambda text, part: text.startswith(part))),
        "endswith": (2, _of_texts(lambda text, part: text.endswith(part))),
        "contains": (2, _of_texts(lambda text, part: part in text)),
        "lower": (1, _of_texts(lambda text: _ascii(text).lower())),
        "upper": (1, _of_texts(lambda text: _ascii(text).upper())),
        "split": (2, _of_texts(_split)),
        "replace": (3, _of_texts(_replace)),
        "trim": (2, _of_texts(lambda text, cut: text.strip(cut))),
        "trim_left": (2, _of_texts(lambda text, cut: text.lstrip(cut))),
        "trim_right": (2, _of_texts(lambda text, cut: text.rstrip(cut))),
        "trim_space": (1, _of_texts(lambda text: _ascii(text).strip(_BLANKS))),
        "trim_prefix": (2, _of_texts(lambda text, part: text.removeprefix(part))),
        "trim_suffix": (2, _of_texts(lambda text, part: text.removesuffix(part))),
        "concat": (2, _concat),
        "count": (1, _count),
        "object.get": (3, _get),
        "glob.match": (3, matches_glob),
        "regex.match": (2, matches_regex),
        "is_string": (1, lambda value: type(value) is str),
        "is_number": (1, _is_number),
        "is_boolean": (1, lambda value: isinstance(value, bool)),
        "is_null": (1, lambda value: value is None),
        "is_array": (1, lambda value: isinstance(value, list)),
        "is_object": (1, lambda value: isinstance(value, dict)),
        "is_set": (1, lambda value: isinstance(value, RegoSet)),
    }
)
