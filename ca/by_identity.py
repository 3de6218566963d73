"""A memory in front of another: what was asked with the very same certificates is found sooner.

A certificate's hash walks through all that it holds, and an issuance asks eight times what is
known of an authority. The objects are the same for thousands of leaves, so they are told by where
they are; what is asked with others goes on to the memory behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
# BUDGET: what is kept for one function; some authorities and their roots.
_MAX_KEPT: Final = 64
_BY_VALUE: Final = (str, int, type)


def by_identity(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return `function` with a memory of results; what it raises is not kept.

    It takes positional arguments that never change: certificates, tuples of them, texts, numbers,
    classes.
    """
    # INVARIANT: the arguments lie beside the result, so nothing else can come to be at their place.
    kept: dict[tuple[Any, ...], tuple[tuple[Any, ...], _Result]] = {}
    # The same by where the arguments themselves are, which is found with fewer steps.
    near: dict[tuple[int, ...], tuple[tuple[Any, ...], _Result]] = {}

    @wraps(function)
    def remembered(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        found = near.get(tuple(map(id, args)))
        if found is not None:
            return found[1]
        key = tuple(map(_place, args))
        found = kept.get(key)
        result = function(*args, **kwargs) if found is None else found[1]
        _keep(kept, key, (args, result))
        _keep(near, tuple(map(id, args)), (args, result))
        return result

    return remembered


def _keep(memory: dict[Any, Any], key: Any, found: Any) -> None:
    """Put something into a memory that may not grow."""
    if key not in memory and len(memory) >= _MAX_KEPT:
        memory.clear()
    memory[key] = found


def _place(argument: Any) -> Any:
    """Return what tells an argument from every other that is kept."""
    if isinstance(argument, _BY_VALUE):
        return argument
    return tuple(map(id, argument)) if type(argument) is tuple else id(argument)
