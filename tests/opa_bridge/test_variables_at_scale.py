"""The rules of variables in a long module: each token is read a few times."""

from __future__ import annotations

from typing import Any

from opa_bridge.rego_module import Module, scan_module
from opa_bridge.scanner import Token
from opa_bridge.variables import hidden_variables, misused_variables

_RULE = """
allow_{0} if {{
	some x in input.items
	every y in input.all {{ y.id > {0} }}
	not denied_{0}
	[q | some q in x.list; q > {0}][_] == 1
}}
denied_{0} if input.path == ["a", "b"]
"""


class _Counted(tuple[Token, ...]):
    """Tokens that count how many of them were handed out."""

    read = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        _Counted.read += len(found) if isinstance(key, slice) else 1
        return found


def _reads_of(rules: int) -> float:
    """Return how often each token of a module of so many rules is read."""
    found = scan_module("a.rego", "package a\n" + "".join(map(_RULE.format, range(rules))))
    assert isinstance(found, Module)
    tokens = _Counted(found.tokens)
    _Counted.read = 0
    assert list(misused_variables(tokens)) == []
    known = {f"{name}_{n}" for n in range(rules) for name in ("allow", "denied")}
    assert list(hidden_variables(tokens, known)) == []
    return _Counted.read / len(tokens)


def test_a_long_module_costs_what_its_length_is() -> None:
    """Ten times the rules take no more reads of a token."""
    assert _reads_of(300) < 1.2 * _reads_of(30)
