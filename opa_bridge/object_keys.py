"""Keys of written objects of which two may be one: there the library answers otherwise than OPA.

Spec: of `{"a": 1, x: 2}` with `x := "a"` OPA keeps one or the other value by the places that it
gives to variables when it compiles; the library keeps the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from opa_bridge.direct.term_parser import text_of
from opa_bridge.scanner import Kind, Token

_ADVICE = "write `{k: v | some [k, v] in [...]}`, which fails where two keys are one"


@dataclass(slots=True)
class _Open:
    """A bracket that is open, and the keys that stand in it."""

    depth: int
    is_object: bool
    keys: list[tuple[Token, str | None]] = field(default_factory=list)
    is_comprehension: bool = False


def doubtful_keys(tokens: tuple[Token, ...]) -> Iterator[tuple[Token, str, str]]:
    """Yield the key of an object that is or may be another of its keys, and what to write."""
    stack: list[_Open] = []
    for place, token in enumerate(tokens):
        if token.kind is not Kind.SIGN:
            continue
        if token.text in ("{", "[", "("):
            stack.append(_Open(token.depth + 1, token.text == "{"))
        elif token.text in ("}", "]", ")") and stack:
            closed = stack.pop()
            if closed.is_object and not closed.is_comprehension:
                yield from _doubtful(closed.keys)
        elif stack and token.text == "|" and token.depth == stack[-1].depth:
            stack[-1].is_comprehension = True
        elif stack and token.text == ":" and token.depth == stack[-1].depth:
            stack[-1].keys.append((tokens[place - 1], _written(tokens, place)))


def _written(tokens: tuple[Token, ...], colon: int) -> str | None:
    """Return the text or number that a key is, None for one that is computed."""
    key, before = tokens[colon - 1], tokens[colon - 2].text
    if before not in ("{", ","):
        return None
    if key.kind is Kind.STRING:
        return f"text {text_of(key)}"
    if key.kind is Kind.NUMBER and key.text.isdecimal():
        return f"number {int(key.text)}"
    return key.text if key.text in ("true", "false", "null") else None


def _doubtful(keys: list[tuple[Token, str | None]]) -> Iterator[tuple[Token, str, str]]:
    seen: set[str] = set()
    for token, written in keys:
        if written is None and len(keys) > 1:
            yield (
                token,
                "a key that is computed stands beside others, and may be one of them",
                _ADVICE,
            )
            return
        if written is not None and written in seen:
            yield token, "a key stands twice in an object", ""
        seen.add(written or "")
