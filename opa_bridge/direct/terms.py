"""Terms as closures: `term(run, frame)` is a value, or UNDEFINED."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opa_bridge.direct.run import UNKNOWN, Run
from opa_bridge.direct.values import UNDEFINED, RegoSet

Frame = list[Any]
TermFn = Callable[[Run, Frame], Any]
# Small values need no counting; a text may be long.
_SMALL = frozenset({int, float, bool, type(None)})


def lookup(value: Any, key: Any) -> Any:
    """Return what stands at a key: of an object, an array or a set."""
    kind = type(value)
    if kind is dict:
        return value.get(key, UNDEFINED) if type(key) is str else UNDEFINED
    if kind is list:
        return _item(value, key)
    if kind is RegoSet:
        return key if key in value else UNDEFINED
    return UNDEFINED


def _item(values: list[Any], key: Any) -> Any:
    # 1.0 is the place 1, true is none.
    if type(key) is float and key.is_integer():
        key = int(key)
    if type(key) is not int or not 0 <= key < len(values):
        return UNDEFINED
    return values[key]


def constant_term(value: Any) -> TermFn:
    """Return a term that is always the same."""
    return lambda _run, _frame: value


def place_term(place: int) -> TermFn:
    """Return a variable."""
    return lambda _run, frame: frame[place]


def input_term(steps: Sequence[str | int]) -> TermFn:
    """Return what is in the input along some keys and places."""
    keys = tuple(steps)

    def find(run: Run, _frame: Frame) -> Any:
        value = run.document
        for key in keys:
            value = lookup(value, key)
        return value

    return find


def path_term(head: TermFn, steps: Sequence[TermFn]) -> TermFn:
    """Return what is in another term along some steps."""
    if not steps:
        return head
    path = tuple(steps)

    def find(run: Run, frame: Frame) -> Any:
        value = head(run, frame)
        for step in path:
            if value is UNDEFINED:
                return value
            key = step(run, frame)
            if key is UNDEFINED:
                return key
            if type(value) is RegoSet:
                run.walk(key)
            value = lookup(value, key)
        return value

    return find


def rule_term(number: int, rule: Callable[[Run], Any]) -> TermFn:
    """Return a rule's value, worked out once in an evaluation."""

    def find(run: Run, _frame: Frame) -> Any:
        value = run.values[number]
        if value is UNKNOWN:
            run.spend()
            value = run.values[number] = rule(run)
        return value

    return find


def array_term(items: Sequence[TermFn]) -> TermFn:
    """Return an array; undefined where an item is."""
    terms = tuple(items)

    def make(run: Run, frame: Frame) -> Any:
        found = []
        for term in terms:
            value = term(run, frame)
            if value is UNDEFINED:
                return value
            found.append(value)
        return found

    return make


def set_term(items: Sequence[TermFn]) -> TermFn:
    """Return a set; undefined where an item is."""
    make = array_term(items)

    def make_set(run: Run, frame: Frame) -> Any:
        found = make(run, frame)
        if found is UNDEFINED:
            return found
        run.walk(found)
        return RegoSet(found)

    return make_set


def object_term(items: Sequence[tuple[str, TermFn]]) -> TermFn:
    """Return an object; undefined where a value is."""
    keys = [key for key, _ in items]
    make = array_term([term for _, term in items])

    def make_object(run: Run, frame: Frame) -> Any:
        found = make(run, frame)
        return found if found is UNDEFINED else dict(zip(keys, found, strict=True))

    return make_object


def builtin_term(function: Callable[..., Any], arguments: Sequence[TermFn]) -> TermFn:
    """Return what a built-in answers; undefined where an argument is."""
    terms = tuple(arguments)

    def call(run: Run, frame: Frame) -> Any:
        values = []
        for term in terms:
            value = term(run, frame)
            if value is UNDEFINED:
                return value
            if type(value) not in _SMALL:
                run.walk(value)
            values.append(value)
        return function(*values)

    return call


def function_term(
    function: Callable[[Run, Sequence[Any]], Any], arguments: Sequence[TermFn]
) -> TermFn:
    """Return what a policy's own function answers; undefined where an argument is."""
    terms = tuple(arguments)

    def call(run: Run, frame: Frame) -> Any:
        run.spend()
        values = []
        for term in terms:
            value = term(run, frame)
            if value is UNDEFINED:
                return value
            values.append(value)
        return function(run, values)

    return call
