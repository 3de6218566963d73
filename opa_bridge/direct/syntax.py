"""The plain fragment of Rego as a tree: terms, literals, clauses.

Infix operators are calls by OPA's own names (`equal`, `lt`, `internal.member_2`), so a
comparison and a built-in are one thing to everything behind the parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outside(Exception):
    """Something that is not in the fragment: `why` is one clause, `place` its file and line."""

    def __init__(self, why: str, line: int = 0) -> None:
        """Keep the clause and the line, 0 when whoever catches it knows better."""
        super().__init__(why)
        self.why = why
        self.line = line
        self._file = ""

    def at(self, file: str, line: int) -> Outside:
        """Return itself; file and line count unless they are known already."""
        if not self._file:
            self._file = file
            self.line = self.line or line
        return self

    @property
    def place(self) -> str:
        """Where it stands, as `file:line`, as far as that is known."""
        return f"{self._file}:{self.line}" if self.line else self._file


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text, a number, a boolean or null as it is written."""

    value: str | float | bool | None


@dataclass(frozen=True, slots=True)
class Var:
    """A name; what it stands for is known where it is used."""

    name: str


@dataclass(frozen=True, slots=True)
class Ref:
    """A name and the way on from there; a step that is no scalar may bind a variable."""

    head: Var
    path: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a built-in, an operator or a function, by its dotted name."""

    name: str
    arguments: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Array:
    """An array of terms."""

    items: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class SetOf:
    """A set of terms."""

    items: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Object:
    """An object whose keys are texts as they are written."""

    items: tuple[tuple[str, Term], ...]


@dataclass(frozen=True, slots=True)
class Comprehension:
    """An array or set of what a term is for each solution of a body."""

    is_set: bool
    term: Term
    body: Body


Term = Scalar | Var | Ref | Call | Array | SetOf | Object | Comprehension


@dataclass(frozen=True, slots=True)
class Condition:
    """A term that must be neither false nor undefined; negated, one that must be."""

    term: Term
    negated: bool
    line: int


@dataclass(frozen=True, slots=True)
class Assign:
    """`name := term`; with `unifies` it is `name = term`, whose name may have a value."""

    name: str
    term: Term
    unifies: bool
    line: int


@dataclass(frozen=True, slots=True)
class Declare:
    """`some x, y`: names that a step of a reference will bind."""

    names: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class SomeIn:
    """`some value in domain`, `some key, value in domain`; `_` binds nothing."""

    key: str
    value: str
    domain: Term
    line: int


@dataclass(frozen=True, slots=True)
class Every:
    """`every value in domain { body }`."""

    key: str
    value: str
    domain: Term
    body: Body
    line: int


Literal = Condition | Assign | Declare | SomeIn | Every
Body = tuple[Literal, ...]


class Shape(Enum):
    """What the clauses of one name make together."""

    VALUE = "value"
    SET = "set"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class Clause:
    """One clause of a rule. `parameters` are names and scalars; `otherwise` is its `else`."""

    name: str
    shape: Shape
    parameters: tuple[Var | Scalar, ...]
    value: Term
    body: Body
    line: int
    otherwise: Clause | None = None


@dataclass(frozen=True, slots=True)
class Default:
    """`default name := value`."""

    name: str
    value: Term
    line: int


@dataclass(frozen=True, slots=True)
class Source:
    """A module: its package path, imports by name, clauses; and what of it could not be read.

    An import is the path of a document, its first step `data` or `input`. `outside` holds,
    by each name that an unread statement may define, why.
    """

    file: str
    package: tuple[str, ...]
    imports: dict[str, tuple[str, ...]]
    clauses: tuple[Clause | Default, ...]
    outside: dict[str, Outside]
