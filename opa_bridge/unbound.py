"""Variables that nothing in a module gives a value.

OPA refuses them when it compiles ("unsafe"); the engine leaves them undefined, so that
`not input.department == finanec` would let everybody pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from opa_bridge.builtin_table import USABLE, words
from opa_bridge.scanner import Kind, Token

KEYWORDS = words(
    "as contains default else every false if import in not null package some true with"
)
_DOCUMENTS = words("input data")
_ASSIGNMENTS = words(":= =")
_OPENING, _CLOSING = words("( [ {"), words(") ] }")


def unbound_names(tokens: tuple[Token, ...], known: Iterable[str]) -> Iterator[Token]:
    """Yield every use of a name that is neither known nor bound anywhere in the module.

    `known` are the rules of the package and the imports.
    """
    roots = tuple(_root_positions(tokens))
    bound = set(known) | KEYWORDS | _DOCUMENTS | USABLE | {"_"}
    bound.update(tokens[index].text for index in _binding_positions(tokens, roots))
    for index in roots:
        follows = tokens[index + 1].text if index + 1 < len(tokens) else ""
        # Calls and dotted built-ins are checked by name elsewhere.
        if tokens[index].text not in bound and follows not in ("(", "."):
            yield tokens[index]


def _root_positions(tokens: tuple[Token, ...]) -> Iterator[int]:
    """Yield where a name stands that is no field, outside package and import clauses."""
    clause_line = 0
    for index, token in enumerate(tokens):
        if token.starts_line and token.text in ("package", "import"):
            clause_line = token.line
        is_field = index > 0 and tokens[index - 1].text == "."
        if token.kind is Kind.NAME and token.line != clause_line and not is_field:
            yield index


def _binding_positions(tokens: tuple[Token, ...], roots: tuple[int, ...]) -> Iterator[int]:
    """Yield the positions at which a variable may get its value."""
    openers = _enclosing(tokens)
    declared = _declared(tokens)
    for index in roots:
        before = tokens[index - 1].text if index else ""
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        opener = openers[index]
        in_brackets = opener is not None and tokens[opener].text == "["
        in_head = opener is not None and _opens_head(tokens, opener)
        assigned = after in _ASSIGNMENTS or before == "="
        if assigned or in_brackets or in_head or index in declared:
            yield index


def _declared(tokens: tuple[Token, ...]) -> set[int]:
    """Return the positions of names behind `some` and `every`."""
    found: set[int] = set()
    declaring = False
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        if token.text in ("some", "every"):
            declaring = True
        elif declaring and before in ("some", "every", ","):
            found.add(index)
        elif token.text != ",":
            declaring = False
    return found


def _enclosing(tokens: tuple[Token, ...]) -> list[int | None]:
    """Return, for each token, the position of the innermost bracket around it."""
    found: list[int | None] = []
    stack: list[int] = []
    for index, token in enumerate(tokens):
        if token.text in _CLOSING and stack:
            stack.pop()
        found.append(stack[-1] if stack else None)
        if token.text in _OPENING:
            stack.append(index)
    return found


def _opens_head(tokens: tuple[Token, ...], opener: int) -> bool:
    """Whether the bracket holds the parameters of a function's head."""
    callee = tokens[opener - 1] if opener else None
    is_head = callee is not None and callee.starts_line and not callee.depth
    return is_head and tokens[opener].text == "("
