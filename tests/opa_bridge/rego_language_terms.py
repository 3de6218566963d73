"""Random terms and literals of Rego, of every kind that a source may hold."""

from __future__ import annotations

import random

TEXTS = ['"a"', '"b"', '""', '"a/b"', '"é"', '"A"', '"aab"', '"x y"', '"\\n"', '"\\""', "`a\\b`"]
NUMBERS = ["0", "1", "2", "-1", "1.5", "1.0", "10", "0.1", "0.2", "3", "12", "100"]
SCALARS = ["true", "false", "null"]
PLACES = ["a", "b", "l", "o"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">="]


class Terms:
    """What writes terms; `scope` are the names that have a value where a term stands."""

    def __init__(self, rand: random.Random) -> None:
        """Begin without names."""
        self.rand = rand
        self.names = 0

    def chance(self, part: float) -> bool:
        """Return true so often."""
        return self.rand.random() < part

    def pick(self, *choices: str) -> str:
        """Return one of the choices."""
        return self.rand.choice(choices)

    def new(self, prefix: str = "v") -> str:
        """Return a name that stands nowhere yet."""
        self.names += 1
        return f"{prefix}{self.names}"

    def scalar(self) -> str:
        """Return a constant."""
        kind = self.rand.random()
        if kind < 0.4:
            return self.rand.choice(TEXTS)
        return self.rand.choice(NUMBERS if kind < 0.8 else SCALARS)

    def place(self) -> str:
        """Return a reference into input or data."""
        root = self.pick("input", "input", "input", "data.d")
        way = f".{self.rand.choice(PLACES)}"
        if self.chance(0.35):
            way += self.pick(".a", ".b", "[0]", "[1]", "[-1]", '["k x"]', '["a.b"]', ".l")
        return root + way

    def list_(self, scope: list[str]) -> str:
        """Return what is mostly a collection."""
        kind = self.rand.random()
        if kind < 0.6 or not scope:
            return self.pick("input.l", "input.o", "data.d.l", "data.d.o", "input", "data.d")
        if kind < 0.8:
            return self.rand.choice(scope)
        return self.term(scope, 1)

    def term(self, scope: list[str], depth: int = 2) -> str:
        """Return a term."""
        kind = self.rand.random()
        if scope and kind < 0.35:
            return self.rand.choice(scope)
        if depth < 1 or kind < 0.6:
            return self.place() if self.chance(0.6) else self.scalar()
        if kind < 0.7:
            return f"[{', '.join(self.terms(scope, depth))}]"
        if kind < 0.78:
            return f"{{{', '.join(self.terms(scope, depth) or ['1'])}}}"
        if kind < 0.86:
            pairs = [f"{self.key()}: {each}" for each in self.terms(scope, depth)]
            return f"{{{', '.join(pairs)}}}"
        if kind < 0.93:
            return self.comprehension(scope, depth - 1)
        return f"({self.term(scope, depth - 1)})" if self.chance(0.3) else self.call(scope)

    def terms(self, scope: list[str], depth: int) -> list[str]:
        """Return a few terms."""
        return [self.term(scope, depth - 1) for _ in range(self.rand.randrange(4))]

    def key(self) -> str:
        """Return an object's key."""
        return self.rand.choice(TEXTS) if self.chance(0.9) else self.scalar()

    def call(self, scope: list[str]) -> str:
        """Return a call that hardly ever is undefined."""
        name = self.pick("count", "type_name", "is_string", "is_object", "is_set", "is_null")
        return f"{name}({self.term(scope, 1)})"

    def comprehension(self, scope: list[str], depth: int) -> str:
        """Return a comprehension of one of the three kinds."""
        inner = list(scope)
        body = self.body(inner, depth)
        kind = self.rand.randrange(3)
        if kind == 0:
            return f"[{self.term(inner, 1)} | {body}]"
        if kind == 1:
            return f"{{{self.term(inner, 1)} | {body}}}"
        return f"{{{self.term(inner, 0)}: {self.term(inner, 1)} | {body}}}"

    def body(self, scope: list[str], depth: int = 1) -> str:
        """Return a few literals; what they bind is in the scope behind them."""
        count = self.rand.choice([1, 1, 2, 2, 3])
        return "; ".join(self.literal(scope, depth) for _ in range(count))

    def literal(self, scope: list[str], depth: int) -> str:
        """Return one literal."""
        kind = self.rand.random()
        if kind < 0.3:
            return self.some(scope)
        if kind < 0.45:
            term = self.term(scope, depth)
            scope.append(self.new())
            return f"{scope[-1]} := {term}"
        if kind < 0.55:
            return f"not {self.condition(scope, depth)}"
        if kind < 0.62 and depth > 0:
            return self.every(scope, depth)
        return self.condition(scope, depth)

    def some(self, scope: list[str]) -> str:
        """Return an iteration."""
        domain = self.list_(scope)
        key, value = self.new("k"), self.new()
        kind = self.rand.randrange(6)
        if kind == 0:
            scope += [key, value]
            return f"some {key}, {value} in {domain}"
        scope.append(value)
        if kind == 1:
            return f"{value} := {domain if domain[0] in 'div' else 'input.l'}[_]"
        if kind == 2:
            return f"some [{value}, _] in {domain}"
        if kind == 3:
            return f'some {{"a": {value}}} in {domain}'
        return f"some {value} in {domain}"

    def every(self, scope: list[str], depth: int) -> str:
        """Return an `every`."""
        key, value = self.new("k"), self.new()
        domain = self.list_(scope)
        inner = [*scope, value]
        head = value
        if self.chance(0.3):
            head, inner = f"{key}, {value}", [*inner, key]
        return f"every {head} in {domain} {{ {self.body(inner, depth - 1)} }}"

    def condition(self, scope: list[str], depth: int) -> str:
        """Return what may hold or not."""
        kind = self.rand.random()
        one, other = self.term(scope, depth), self.term(scope, depth)
        if kind < 0.5:
            return f"{one} {self.rand.choice(COMPARISONS)} {other}"
        if kind < 0.65:
            return f"{one} in {self.list_(scope)}"
        if kind < 0.7:
            return f"{one}, {other} in {self.list_(scope)}"
        if kind < 0.85:
            return self.place()
        return f"{self.pick('is_string', 'is_number', 'is_array', 'is_object')}({one})"
