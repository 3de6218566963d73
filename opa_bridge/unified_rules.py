"""Rules and imports that stand beside `=` by their whole names, for the library.

`role = "admin"` compares where `role` is a rule or an import. The library takes the name for a
variable that gets the value, so that everybody passes; `data.p.role = "admin"` it compares. So
does a call whose answer is given as its last argument. No line moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from opa_bridge.rego_module import Module
from opa_bridge.scanner import Token
from opa_bridge.scopes import Scopes
from opa_bridge.statements import rules_of


def whole_names(module: Module, package_rules: set[str]) -> dict[str, str]:
    """Return what each rule of the package and each import is called everywhere."""
    package = module.package.replace("/", ".")
    found = {name: f"data.{package}.{name}" for name in package_rules}
    tokens = module.tokens
    for place, token in enumerate(tokens):
        if token.text != "import" or token.depth or not token.starts_line:
            continue
        clause = [each for each in tokens[place + 1 :] if each.line == token.line]
        if not clause or clause[0].text not in ("data", "input"):
            continue
        path = clause[:-2] if len(clause) > 2 and clause[-2].text == "as" else clause
        found[clause[-1].text.strip('"')] = module.source[path[0].start : path[-1].end]
    return found


def state_rules(module: Module, package_rules: set[str]) -> str:
    """Return a module's source in which what is compared by `=` has its whole name.

    >>> source = 'package a\\nq := input.x\\nr if q = 2\\n'
    >>> state_rules(scan_module("a.rego", source), {"q", "r"})
    'package a\\nq := input.x\\nr if data.a.q = 2\\n'
    """
    parts, place = [], 0
    for token, name in _compared(module, whole_names(module, package_rules)):
        parts += [module.source[place : token.start], name]
        place = token.end
    return "".join([*parts, module.source[place:]])


def _compared(module: Module, names: Mapping[str, str]) -> Iterator[tuple[Token, str]]:
    for rule in rules_of(module.tokens):
        beside = [place for place in range(1, len(rule)) if _is_beside(rule, place)]
        if not any(rule[place].text in names for place in beside):
            continue
        scopes = Scopes(rule)
        for place in beside:
            name = rule[place].text
            is_seen = name not in names or scopes.is_in_head(place) or scopes.sees(place, name)[1]
            if not is_seen:
                yield rule[place], names[name]


def _is_beside(rule: tuple[Token, ...], place: int) -> bool:
    """Whether a token stands beside `=`, or last in a call."""
    before = rule[place - 1].text
    behind = rule[place + 1].text if place + 1 < len(rule) else ""
    # Behind a dot it is a field of another.
    return before != "." and ("=" in (before, behind) or (before, behind) == (",", ")"))
