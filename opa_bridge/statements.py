"""Where a Rego module's statements begin and end, and those of a rule's bodies.

Theory of operation. A statement of a module is what starts a line outside brackets and does
not go on with the line before; so it is with the statements of a body, which `;` parts as
well. Nothing here decides what a module means: who reads it finds places in its source.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from opa_bridge.scanner import Kind, Token
from opa_bridge.unbound import KEYWORDS

_LITERALS: Final = frozenset({"true", "false", "null"})
_GO_ON: Final = frozenset({"with", "in", "as"})
_OPENERS: Final = frozenset({"{", "[", "("})

Tokens = tuple[Token, ...]
"""Tokens in the order of the source, with the depths that the whole module gives them."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One way to a rule's value: a clause, or one `else` of it.

    `head` are the tokens before the body. `body` are those of the body without its braces,
    None where nothing is asked; `in_braces` says whether it stands in braces.
    """

    head: Tokens
    body: Tokens | None
    in_braces: bool = False


def statements_of(tokens: Tokens) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each statement of a module: what starts a line outside brackets."""
    starts = [
        index
        for index, token in enumerate(tokens)
        if token.starts_line and token.depth == 0 and _is_fresh(tokens, index)
    ]
    yield from zip(starts, [*starts[1:], len(tokens)], strict=True)


def _is_fresh(tokens: Tokens, index: int) -> bool:
    """Return whether a token at the start of a line starts a statement, seen from both sides."""
    token = tokens[index]
    if token.kind is Kind.SIGN or token.text in ("else", "if", "with", "in", "as", "contains"):
        return False
    # Behind a dot, `in` and its like are fields.
    is_field = index > 1 and tokens[index - 2].text == "."
    return index == 0 or is_field or can_end(tokens[index - 1])


def can_end(token: Token) -> bool:
    """Return whether a statement may end with a token."""
    if token.kind is Kind.SIGN:
        return token.text in ("}", "]", ")")
    return token.text not in KEYWORDS or token.text in _LITERALS


def rules_of(tokens: Tokens) -> Iterator[Tokens]:
    """Yield each statement that defines a rule, `default` ones too."""
    for begin, end in statements_of(tokens):
        if tokens[begin].text not in ("package", "import"):
            yield tokens[begin:end]


def branches_of(rule: Tokens) -> Iterator[Branch]:
    """Yield the clause of a rule and each of its `else`, in order."""
    cuts = [index for index, token in enumerate(rule) if token.depth == 0 and token.text == "else"]
    for begin, end in zip([0, *cuts], [*cuts, len(rule)], strict=True):
        yield _branch(rule[begin:end])


def _branch(tokens: Tokens) -> Branch:
    for index, token in enumerate(tokens[:-1]):
        if token.depth == 0 and token.text == "if":
            rest = tokens[index + 1 :]
            if rest[0].text == "{" and rest[-1].text == "}" and _is_body(rest[1:-1]):
                return Branch(tokens[: index + 1], rest[1:-1], in_braces=True)
            return Branch(tokens[: index + 1], rest)
    return Branch(tokens, None)


def _is_body(inner: Tokens) -> bool:
    # Neither `if {…} | {…}` nor a comprehension, `if {… | …}`, is a body in braces.
    return all(each.depth > 0 and (each.text, each.depth) != ("|", 1) for each in inner)


def steps_of(body: Tokens) -> Iterator[Tokens]:
    """Yield the statements of a body."""
    if not body:
        return
    depth, begin = body[0].depth, 0
    for index in range(1, len(body)):
        if body[index].depth != depth or index <= begin:
            continue
        if body[index].text == ";":
            yield body[begin:index]
            begin = index + 1
        elif body[index].starts_line and _starts_step(body, begin, index):
            yield body[begin:index]
            begin = index
    if begin < len(body):
        yield body[begin:]


def _starts_step(body: Tokens, begin: int, index: int) -> bool:
    token = body[index]
    if token.text in _GO_ON or not can_end(body[index - 1]):
        return False
    if token.kind is not Kind.SIGN:
        return True
    # `every x in xs` may have its braces on the next line.
    has_braces = any(each.text == "{" and each.depth == token.depth for each in body[begin:index])
    is_its_own = body[begin].text == "every" and token.text == "{" and not has_braces
    return token.text in _OPENERS and not is_its_own
