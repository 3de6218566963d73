"""How rules are spelled: what the library takes as of old and OPA has refused since its 1.0.

Spec: Rego v1: `if` stands before each body, `contains` before a member of a set, and the value of
a default is no reference and no call.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from opa_bridge.scanner import Kind, Token
from opa_bridge.scopes import Scopes
from opa_bridge.statements import Tokens, can_end, rules_of

_SIGNS: Final = frozenset({":=", "=", "contains", "if"})
_ADVICE: Final = (
    "write `contains` before a member of a set, `if` before a body, `:=` before a value"
)
_LITERALS: Final = frozenset({"true", "false", "null", "set"})

Finding = tuple[Token, str, str]
"""A token, what is wrong with it, and how to mend it."""


def misspelled_rules(tokens: tuple[Token, ...]) -> Iterator[Finding]:
    """Yield where a rule is spelled as OPA does not take it."""
    for rule in rules_of(tokens):
        if rule[0].text == "default":
            yield from _default(rule)
            continue
        texts = {token.text for token in rule[1:] if not token.depth}
        if not texts & _SIGNS and not _opens(rule):
            yield rule[0], f"`{rule[0].text}` is no rule as it stands", _ADVICE
        for place in _opens(rule):
            yield rule[place], "`if` is missing before a body", "write `if {`"
        for place, token in enumerate(rule):
            closes = place + 1 < len(rule) and rule[place + 1].text == "}"
            if token.text == ";" and token.kind is Kind.SIGN and (closes or not token.depth):
                yield token, "nothing may follow this `;`", "leave it out"


def _opens(rule: Tokens) -> list[int]:
    """Return where braces open that are neither a value nor a body behind `if` or `every`."""
    found, is_every = [], False
    for place in range(1, len(rule)):
        token, before = rule[place], rule[place - 1]
        if token.depth:
            continue
        is_field = before.text == "."
        if token.kind is Kind.NAME and token.text == "every" and not is_field:
            is_every = True
        ends = can_end(before) or before.text == "else"
        if token.text != "{" or not ends:
            continue
        if is_every and before.text != "else":
            is_every = False
        else:
            found.append(place)
    return found


def _default(rule: Tokens) -> Iterator[Finding]:
    sign = next((i for i, it in enumerate(rule) if it.text in (":=", "=")), None)
    if sign is None:
        return
    scopes = Scopes(rule)
    for place in scopes.names():
        is_outer = scopes.all[scopes.scope_of(place)].parent is None
        if place > sign and is_outer and rule[place].text not in _LITERALS:
            yield rule[place], "a default is no constant", "give the value by a rule with `else`"
            return
