"""Read terms of Rego from tokens; the half of the parser that knows nothing of clauses."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Final

from opa_bridge.direct.syntax import (
    Array,
    Body,
    Call,
    Comprehension,
    Object,
    Outside,
    Ref,
    Scalar,
    SetOf,
    Term,
    Var,
)
from opa_bridge.scanner import Kind, Token
from opa_bridge.unbound import KEYWORDS

_OPERATORS: Final = {
    "==": "equal",
    "!=": "neq",
    "<": "lt",
    "<=": "lte",
    ">": "gt",
    ">=": "gte",
    "in": "internal.member_2",
}
_SUMS: Final = {"+": "plus", "-": "minus"}
_PRODUCTS: Final = {"*": "mul", "/": "div"}
CONSTANTS: Final = {"true": True, "false": False, "null": None}
# Up to 15 digits a double tells decimals apart as exactly as OPA's comparison of their texts.
_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_DIGITS_MOST: Final = 15
# BUDGET: of nesting in a source; beyond it a statement is left to the library.
_DEPTH_MOST: Final = 32
_END: Final = Token(Kind.SIGN, "", 0, 0, True)


class TermParser(ABC):
    """The place in the tokens of one module, and what reads terms from there."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens
        self._index = 0
        self._depth = 0
        self.spans: dict[int, tuple[int, int]] = {}
        """Begin and end of each term in the tokens, by its identity."""
        # An identity is a term's as long as the term is there.
        self._kept: list[Term] = []

    # -- tokens

    @property
    def _token(self) -> Token:
        return self._tokens[self._index] if self._index < len(self._tokens) else _END

    @property
    def _before(self) -> Token:
        return self._tokens[self._index - 1]

    def _at(self, *texts: str) -> bool:
        return self._token.kind is not Kind.STRING and self._token.text in texts

    def _hangs(self, text: str) -> bool:
        """Whether a sign follows without a blank, as what belongs to a reference or call must."""
        return self._at(text) and self._token.start == self._before.end

    def _take(self, *texts: str) -> bool:
        if self._at(*texts):
            self._index += 1
            return True
        return False

    def _need(self, text: str) -> None:
        if not self._take(text):
            raise self._outside(f"expected `{text}`")

    def _name(self) -> str:
        token = self._token
        if token.kind is not Kind.NAME or token.text in KEYWORDS:
            raise self._outside("expected a name")
        self._index += 1
        return token.text

    def _outside(self, why: str) -> Outside:
        token = self._token
        line = token.line or (self._tokens[-1].line if self._tokens else 0)
        seen = f" at `{token.text[:20]}`" if token.text else " at the end"
        return Outside(f"{why}{seen}", line)

    @abstractmethod
    def _body(self, closing: str) -> Body:
        """Return the literals up to a bracket, which is taken."""

    def _expression(self) -> Term:
        """Return a sum, or two with one comparison between them."""
        left = self._sum()
        token = self._token
        if token.kind is Kind.STRING or token.text not in _OPERATORS:
            return left
        if token.starts_line:
            raise self._outside("an operator at the start of a line")
        self._index += 1
        return Call(_OPERATORS[token.text], (left, self._sum()))

    def _sum(self) -> Term:
        return self._row(_SUMS, lambda: self._row(_PRODUCTS, self._term))

    def _row(self, operators: Mapping[str, str], part: Callable[[], Term]) -> Term:
        """Return parts with operators of one precedence between them, from left to right."""
        begin = self._index
        left = part()
        while self._at(*operators):
            if self._token.starts_line:
                raise self._outside("an operator at the start of a line")
            name = operators[self._token.text]
            self._index += 1
            left = Call(name, (left, part()))
            self.spans[id(left)] = (begin, self._index)
            self._kept.append(left)
        return left

    # -- terms

    def _term(self) -> Term:
        self._depth += 1
        if self._depth > _DEPTH_MOST:
            raise self._outside("a term nested too deep")
        begin = self._index
        try:
            term = self._bare_term()
        finally:
            self._depth -= 1
        self.spans[id(term)] = (begin, self._index)
        self._kept.append(term)
        return term

    def _bare_term(self) -> Term:
        token = self._token
        if token.kind is Kind.STRING:
            self._index += 1
            return Scalar(text_of(token))
        if token.kind is Kind.NUMBER or token.text == "-":
            return self._number()
        if token.text in CONSTANTS:
            self._index += 1
            return Scalar(CONSTANTS[token.text])
        if token.text == "[":
            return self._array()
        if token.text == "{":
            return self._braces()
        return self._reference()

    def _number(self) -> Scalar:
        sign = self._token if self._at("-") else None
        self._index += sign is not None
        token = self._token
        is_known = token.kind is Kind.NUMBER and _NUMBER.fullmatch(token.text)
        if not is_known or len(token.text.replace(".", "")) > _DIGITS_MOST:
            raise self._outside("a number of this form")
        if sign is not None and sign.end != token.start:
            raise self._outside("a minus that stands alone")
        self._index += 1
        value = float(token.text) if "." in token.text else int(token.text)
        return Scalar(-value if sign is not None else value)

    def _array(self) -> Term:
        self._need("[")
        items: list[Term] = []
        while not self._take("]"):
            items.append(self._term())
            if len(items) == 1 and self._take("|"):
                return Comprehension(False, items[0], self._body("]"))
            if not self._at("]"):
                self._need(",")
        return Array(tuple(items))

    def _braces(self) -> Term:
        self._need("{")
        if self._take("}"):
            return Object(())
        first = self._term()
        if self._take("|"):
            return Comprehension(True, first, self._body("}"))
        if self._at(":"):
            return self._object(first)
        items = [first]
        while not self._take("}"):
            self._need(",")
            if not self._at("}"):
                items.append(self._term())
        return SetOf(tuple(items))

    def _object(self, first: Term) -> Object:
        items: dict[str, Term] = {}
        key = first
        while True:
            self._need(":")
            if not isinstance(key, Scalar) or not isinstance(key.value, str) or key.value in items:
                raise self._outside("an object key that is no text of its own")
            items[key.value] = self._term()
            if self._take("}"):
                return Object(tuple(sorted(items.items())))
            self._need(",")
            if self._take("}"):
                return Object(tuple(sorted(items.items())))
            key = self._term()

    def _reference(self) -> Term:
        name = "contains" if self._take("contains") else self._name()
        path: list[Term] = []
        while True:
            if self._hangs("("):
                return self._call(name, path)
            if self._hangs("."):
                self._index += 1
                token = self._token
                if token.kind is not Kind.NAME or token.start != self._before.end:
                    raise self._outside("a reference of this form")
                self._index += 1
                path.append(Scalar(token.text))
            elif self._hangs("["):
                self._index += 1
                path.append(self._term())
                self._need("]")
            else:
                break
        if name == "contains":
            raise self._outside("a reference of this form")
        return Ref(Var(name), tuple(path)) if path else Var(name)

    def _call(self, name: str, path: list[Term]) -> Term:
        self._need("(")
        arguments: list[Term] = []
        while not self._take(")"):
            arguments.append(self._term())
            if not self._at(")"):
                self._need(",")
        if self._hangs(".") or self._hangs("[") or self._hangs("("):
            raise self._outside("a reference into what a call returns")
        steps = [step.value if isinstance(step, Scalar) else None for step in path]
        if not all(isinstance(step, str) and step.isidentifier() for step in steps):
            raise self._outside("a call through brackets")
        if (name, *steps) == ("set",) and not arguments:
            return SetOf(())
        return Call(".".join([name, *map(str, steps)]), tuple(arguments))


def text_of(token: Token) -> str:
    """Return the text that a string token spells."""
    if not token.text.startswith("`"):
        return str(json.loads(token.text))
    if "\r" in token.text:
        raise Outside("a carriage return in a raw text", token.line)
    return token.text[1:-1]
