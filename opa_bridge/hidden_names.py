"""Names that hide others get names of their own, for the library.

`x := 1; s := {x | some x in xs}` has two variables to OPA; the library has one, and what the
comprehension leaves in it stands in the body. So the inner one is renamed. No line moves.
"""

from __future__ import annotations

from collections.abc import Iterator

from opa_bridge.scanner import Kind, Token, scan_tokens
from opa_bridge.statements import rules_of

_PREFIX = "meshwarden_inner_"
_OPENERS, _CLOSERS = frozenset({"{", "[", "("}), frozenset({"}", "]", ")"})

# Begin and end of a bracket's content, in the tokens of a statement.
_Span = tuple[int, int]


def part_names(source: str) -> str:
    """Return a module in which no variable hides another of its clause.

    >>> part_names('package a\\nr if { x := 1; [x | x := 2] != x }')
    'package a\\nr if { x := 1; [meshwarden_inner_0x | meshwarden_inner_0x := 2] != x }'

    Raises:
        ScanError: it is no Rego.
    """
    renamed: dict[int, str] = {}
    prefix = _PREFIX
    while prefix in source:
        prefix += "_"
    number = 0
    for statement in rules_of(scan_tokens(source)):
        for name, (begin, end) in _hiding(statement):
            for index in range(begin, end):
                if _is_variable(statement, index, name):
                    renamed[statement[index].start] = f"{prefix}{number}{name}"
            number += 1
    parts, place = [], 0
    for start in sorted(renamed):
        name = renamed[start]
        parts += [source[place:start], name]
        place = start + len(name[len(prefix) :].lstrip("0123456789"))
    return "".join([*parts, source[place:]])


def _hiding(statement: tuple[Token, ...]) -> Iterator[tuple[str, _Span]]:
    """Yield each name that is declared within a bracket and around it, outer brackets first."""
    spans = list(_spans(statement))
    declared = [(statement[i].text, spans[i]) for i in _declarations(statement)]
    declared += [(name, (0, len(statement))) for name in _parameters(statement)]
    around: dict[str, set[_Span]] = {}
    for name, span in declared:
        around.setdefault(name, set()).add(span)
    for name, found in around.items():
        for begin, end in sorted(found):
            if any(b <= begin and end <= e and (b, e) != (begin, end) for b, e in found):
                yield name, (begin, end)


def _spans(statement: tuple[Token, ...]) -> Iterator[_Span]:
    """Yield, for each token, the content of the innermost bracket around it."""
    ends: dict[int, int] = {}
    stack: list[int] = []
    for index, token in enumerate(statement):
        if token.kind is Kind.SIGN and token.text in _OPENERS:
            stack.append(index)
        elif token.kind is Kind.SIGN and token.text in _CLOSERS and stack:
            ends[stack.pop()] = index
    for index, token in enumerate(statement):
        if token.kind is Kind.SIGN and token.text in _CLOSERS and stack:
            stack.pop()
        yield (stack[-1], ends.get(stack[-1], len(statement))) if stack else (0, len(statement))
        if token.kind is Kind.SIGN and token.text in _OPENERS:
            stack.append(index)


def _declarations(statement: tuple[Token, ...]) -> Iterator[int]:
    """Yield where `some`, `every` or `:=` declares a name."""
    is_some = False
    for index, token in enumerate(statement):
        if token.kind is Kind.NAME and token.text in ("some", "every"):
            is_some = True
        elif is_some and token.kind is Kind.NAME and token.text not in ("in", "_"):
            yield index
        elif token.text != ",":
            is_some = False
        following = statement[index + 1].text if index + 1 < len(statement) else ""
        if token.kind is Kind.NAME and following == ":=" and token.depth and not is_some:
            yield index


def _parameters(statement: tuple[Token, ...]) -> Iterator[str]:
    """Yield the names of a function's parameters."""
    if len(statement) > 1 and statement[1].text == "(":
        for token in statement[2:]:
            if token.depth <= statement[0].depth:
                return
            if token.kind is Kind.NAME:
                yield token.text


def _is_variable(statement: tuple[Token, ...], index: int, name: str) -> bool:
    token = statement[index]
    is_field = index > 0 and statement[index - 1].text == "."
    return token.kind is Kind.NAME and token.text == name and not is_field
