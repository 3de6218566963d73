"""Read the plain fragment of Rego: strictly, and nothing that could be read in two ways.

Theory of operation. One token of lookahead over the scanner's tokens. A statement of the
module that holds anything else is left out as a whole, with every name that it could
define, so that a rule is either known with all its clauses or not at all. The library
compiles the same modules, so what reaches this parser is Rego; what it must not do is to
read it otherwise than OPA does. It therefore takes one operator a literal, and a literal
ends at its line, at `;` or at its bracket.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from opa_bridge.direct.negation import taken_out
from opa_bridge.direct.syntax import (
    Assign,
    Body,
    Clause,
    Condition,
    Declare,
    Default,
    Every,
    Literal,
    Outside,
    Scalar,
    Shape,
    SomeIn,
    Source,
    Var,
)
from opa_bridge.direct.term_parser import CONSTANTS, TermParser
from opa_bridge.scanner import Kind, Token, scan_tokens
from opa_bridge.unbound import KEYWORDS


def parse_module(file: str, source: str) -> Source:
    """Return what a module says, without its statements that are outside the fragment.

    Raises:
        Outside: the module as a whole cannot be told.
        ScanError: it is no Rego.
    """
    return _Parser(scan_tokens(source)).module(file)


@dataclass(frozen=True, slots=True)
class Negation:
    """A negated literal in tokens: where its `not` stands, where it ends, what it needs.

    `needed` are begin and end of each term that OPA takes out of it. What stands from
    `replaced` on are `with` clauses, which count for those as well.
    """

    begin: int
    end: int
    needed: tuple[tuple[int, int], ...]
    replaced: int


def parse_negations(tokens: tuple[Token, ...]) -> Iterator[Negation | Outside]:
    """Yield each negated literal of a module, or why it cannot be told what it needs."""
    for index, token in enumerate(tokens):
        is_field = index > 0 and tokens[index - 1].text == "."
        if token.kind is Kind.NAME and token.text == "not" and not is_field:
            try:
                yield _Parser(tokens).negation(index)
            except Outside as exc:
                yield exc.at("", token.line)


class _Parser(TermParser):
    """The half of the parser that knows modules, clauses and literals."""

    def negation(self, begin: int) -> Negation:
        """Return the negated literal whose `not` is the token of an index."""
        self._index = begin + 1
        term = self._expression()
        needed = tuple(self.spans[id(each)] for each in taken_out(term, lambda _name: False))
        replaced = self._index
        while self._take("with"):
            self._term()
            self._need("as")
            self._term()
        if not (self._token.starts_line or self._at(";", "}", "]", "else")):
            raise self._outside("a negation goes on in a form that is not known")
        return Negation(begin, self._index, needed, replaced)

    # -- modules

    def module(self, file: str) -> Source:
        """Return the whole module."""
        self._need("package")
        package = [self._name()]
        while self._take("."):
            package.append(self._name())
        # What `package` says counts for all that follows.
        self._starts_statement()
        imports: dict[str, tuple[str, ...]] = {}
        clauses: list[Clause | Default] = []
        outside: dict[str, Outside] = {}
        while self._index < len(self._tokens):
            begin = self._index
            try:
                self._starts_statement()
                if self._take("import"):
                    self._import(imports)
                else:
                    clauses.append(self._default() if self._take("default") else self._clause())
                self._starts_statement()
            except Outside as exc:
                self._skip(begin)
                self._note(begin, exc, outside)
        return Source(file, tuple(package), imports, tuple(clauses), outside)

    def _starts_statement(self) -> None:
        token = self._token
        if self._index >= len(self._tokens):
            return
        # A body in a bracket, an operator or `with` on a line of its own belongs to what is above.
        is_name = token.kind is Kind.NAME and token.text not in KEYWORDS - {"default", "import"}
        if not (token.starts_line and is_name) or token.depth:
            raise self._outside("a statement goes on where it was thought to end")

    def _skip(self, begin: int) -> None:
        """Go on where the next statement surely begins."""
        self._index, self._depth = begin + 1, 0
        while self._index < len(self._tokens):
            token, before = self._token, self._before
            is_fresh = token.starts_line and not token.depth and token.kind is Kind.NAME
            goes_on = token.text in KEYWORDS - {"default", "import", "contains"}
            if is_fresh and not goes_on and _can_end(before):
                return
            self._index += 1

    def _note(self, begin: int, exc: Outside, outside: dict[str, Outside]) -> None:
        """Keep, for each name that a statement left out may define, why it was.

        OPA takes several statements in one line, with nothing between them.
        """
        for index in range(begin, self._index):
            token, before = self._tokens[index], self._tokens[index - 1]
            if token.depth or token.kind is not Kind.NAME:
                continue
            if token.text == "import":
                raise exc
            # Behind a dot, `not` is a field.
            ends = _can_end(before) or self._tokens[index - 2].text == "."
            if token.starts_line or before.text in (";", "default") or ends:
                outside.setdefault(token.text, exc)

    def _import(self, imports: dict[str, tuple[str, ...]]) -> None:
        path = [self._name()]
        while self._take("."):
            # `import rego.v1`, `import future.keywords.in`: keywords are names here.
            path.append(self._token.text)
            self._index += 1
        name = self._name() if self._take("as") else path[-1]
        if path[0] in ("rego", "future"):
            return
        if path[0] not in ("data", "input") or len(path) == 1 or name in imports:
            raise self._outside("an import of this form")
        if not all(step.isidentifier() for step in path) or name in ("data", "input"):
            raise self._outside("an import of this form")
        imports[name] = tuple(path)

    # -- clauses

    def _default(self) -> Default:
        line = self._token.line
        name = self._name()
        if not self._take(":=", "="):
            raise self._outside("a default of this form")
        return Default(name, self._term(), line)

    def _clause(self) -> Clause:
        line = self._token.line
        name = self._name()
        if self._hangs("("):
            return self._rest(name, Shape.FUNCTION, self._parameters(), line)
        if self._take("contains"):
            member = self._term()
            body = self._if_body() if self._take("if") else ()
            return Clause(name, Shape.SET, (), member, body, line)
        return self._rest(name, Shape.VALUE, (), line)

    def _parameters(self) -> tuple[Var | Scalar, ...]:
        self._need("(")
        found: list[Var | Scalar] = []
        while not self._take(")"):
            term = self._term()
            if not isinstance(term, (Var, Scalar)):
                raise self._outside("a parameter that is a pattern")
            found.append(term)
            if not self._at(")"):
                self._need(",")
        return tuple(found)

    def _rest(
        self, name: str, shape: Shape, parameters: tuple[Var | Scalar, ...], line: int
    ) -> Clause:
        """Return a clause from behind its head, with its `else`."""
        has_value = self._take(":=", "=")
        value = self._expression() if has_value else Scalar(True)
        has_body = self._take("if")
        if not (has_value or has_body):
            raise self._outside("a head of this form")
        body = self._if_body() if has_body else ()
        otherwise = None
        if self._at("else"):
            if not has_body:
                raise self._outside("an `else` of this form")
            below = self._token.line
            self._index += 1
            otherwise = self._rest(name, shape, parameters, below)
        return Clause(name, shape, parameters, value, body, line, otherwise)

    def _if_body(self) -> Body:
        if self._take("{"):
            return self._body("}")
        return (self._literal(),)

    def _body(self, closing: str) -> Body:
        """Return the literals up to a bracket, which is taken."""
        found = [self._literal()]
        while not self._take(closing):
            if not self._take(";") and not self._token.starts_line:
                raise self._outside("a literal goes on in a form that is not known")
            if self._at(closing):
                continue
            found.append(self._literal())
        return tuple(found)

    # -- literals

    def _literal(self) -> Literal:
        token = self._token
        line = token.line
        if self._take("some"):
            return self._some(line)
        if self._take("every"):
            return self._every(line)
        if self._take("not"):
            if self._token.starts_line:
                raise self._outside("a negation over two lines")
            return Condition(self._expression(), negated=True, line=line)
        following = self._tokens[self._index + 1 : self._index + 2]
        if token.kind is Kind.NAME and following and following[0].text in (":=", "="):
            name = self._name()
            unifies = self._token.text == "="
            self._index += 1
            return Assign(name, self._expression(), unifies, line)
        if token.text == "-":
            # Behind a line's end it would be the operator.
            raise self._outside("a literal of this form")
        return Condition(self._expression(), negated=False, line=line)

    def _some(self, line: int) -> Literal:
        names = [self._variable()]
        while self._take(","):
            names.append(self._variable())
        if not self._take("in"):
            return Declare(tuple(names), line)
        if len(names) > 2:  # a key and a value
            raise self._outside("`some` of this form")
        key = names[0] if len(names) > 1 else "_"
        return SomeIn(key, names[-1], self._term(), line)

    def _every(self, line: int) -> Literal:
        names = [self._variable()]
        while self._take(","):
            names.append(self._variable())
        if len(names) > 2 or not self._take("in"):  # a key and a value
            raise self._outside("`every` of this form")
        key = names[0] if len(names) > 1 else "_"
        domain = self._term()
        self._need("{")
        return Every(key, names[-1], domain, self._body("}"), line)

    def _variable(self) -> str:
        return self._name()


def _can_end(token: Token) -> bool:
    """Return whether a statement can end with a token."""
    if token.kind is Kind.SIGN:
        return token.text in ("}", "]", ")")
    return token.kind is Kind.STRING or token.text not in KEYWORDS or token.text in CONSTANTS
