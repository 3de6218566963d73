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
    """Yield each name that is declared within a bracket and stands around it, outer ones first.

    What stands around it may be declared there or bound in any other way, such as `x = 1`.
    """
    spans = list(_spans(statement))
    whole = (0, len(statement))
    declared: dict[str, set[_Span]] = {}
    for name, place in _declarations(statement):
        declared.setdefault(name, set()).add(spans[place])
    parameters = set(_parameters(statement))
    for name, found in declared.items():
        around = {s for i, s in enumerate(spans) if s != whole and _is_variable(statement, i, name)}
        if name in parameters or whole in found:
            around.add(whole)
        for begin, end in sorted(found):
            if any(b <= begin and end <= e and (b, e) != (begin, end) for b, e in around):
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


def _declarations(statement: tuple[Token, ...]) -> Iterator[tuple[str, int]]:
    """Yield each name that `some`, `every` or `:=` declares, and where that word stands."""
    for index, token in enumerate(statement):
        if token.kind is Kind.NAME and token.text in ("some", "every"):
            pattern = range(index + 1, _end_of_names(statement, index))
        elif token.text == ":=" and token.depth:
            pattern = range(_begin_of_pattern(statement, index), index)
        else:
            continue
        for place in pattern:
            found, behind = statement[place], statement[place + 1 : place + 2]
            is_key = found.depth > token.depth and behind and behind[0].text == ":"
            if found.text != "_" and not is_key and _is_variable(statement, place, found.text):
                yield found.text, index


def _end_of_names(statement: tuple[Token, ...], begin: int) -> int:
    """Return where the names and patterns behind `some` or `every` end."""
    depth = statement[begin].depth
    for index in range(begin + 1, len(statement)):
        token = statement[index]
        is_fresh = token.text in ("in", ";") or token.starts_line
        if token.depth < depth or (
            token.depth == depth and is_fresh and statement[index - 1].text != ","
        ):
            return index
    return len(statement)


def _begin_of_pattern(statement: tuple[Token, ...], end: int) -> int:
    """Return where the name or pattern in front of `:=` begins."""
    index = end - 1
    if statement[index].text in _CLOSERS:
        index -= 1
        while index > 0 and statement[index].depth > statement[end].depth:
            index -= 1
    return index


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
