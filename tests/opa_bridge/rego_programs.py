"""Random Rego programs in and around the plain fragment, with random inputs and data.

A program is a module of package `p<number>` whose rule `r` is asked. Names, texts and
numbers come from small pools, so that comparisons hold often enough to matter. What OPA
refuses to compile is for the caller to drop.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from opa_bridge.scanner import ScanError, scan_tokens

KEYS = ["a", "b", "l", "o", "k x"]
TEXTS = ["a", "b", "", "GET", "a/b", "é", "\ufffd", 'q"\\', "A", "aab"]
ODD_TEXTS = ["\ud800", "x\0y", "a\u0301", "İ"]
NUMBERS = [0, 1, 2, -1, 1.5, 1.0, -0.0, 2**53 + 1, 2**63 - 1, 0.1, 1e-7]
# Spelled as a source may.
NUMBER_TEXTS = ["0", "1", "2", "-1", "1.5", "1.0", "10", "0.1", "123456789012345"]
SCALAR_TEXTS = ["true", "false", "null"]
COMPARISONS = ["==", "!=", "<", "<=", ">", ">=", "in"]


def value(rand: random.Random, depth: int = 3) -> Any:
    """Return a JSON value."""
    kind = rand.random()
    if depth and kind < 0.22:
        return [value(rand, depth - 1) for _ in range(rand.randrange(4))]
    if depth and kind < 0.44:
        return {rand.choice(KEYS): value(rand, depth - 1) for _ in range(rand.randrange(4))}
    if kind < 0.75:
        return rand.choice(TEXTS if rand.random() < 0.95 else ODD_TEXTS)
    if kind < 0.9:
        return rand.choice(NUMBERS[:4] if rand.random() < 0.7 else NUMBERS)
    return rand.choice([True, False, None])


def document(rand: random.Random) -> dict[str, Any]:
    """Return an input, or data."""
    found = {key: value(rand) for key in KEYS if rand.random() < 0.75}
    # Lists of texts and objects of lists are what policies iterate over.
    if rand.random() < 0.5:
        found["l"] = [rand.choice(TEXTS) for _ in range(rand.randrange(4))]
    if rand.random() < 0.5:
        found["o"] = {key: value(rand, 1) for key in KEYS if rand.random() < 0.5}
    return found


class Program:
    """One random program; `modules` are file names and sources, `p<number>/r` is asked.

    A `plain` one leaves out what the library is known to answer otherwise than OPA: the order
    of different types.
    """

    def __init__(self, number: int, seed: str, *, plain: bool = False) -> None:
        """Write the program of a number."""
        self._rand = random.Random(f"{seed} {number}")
        self._plain = plain
        self._values: list[str] = []
        self._sets: list[str] = []
        self._functions: list[tuple[str, int]] = []
        self._documents = ["input.a", "input.b", "data.d.a", "input"]
        self._collections = ["input.l", "input.o", "data.d.l", "data.d.o"]
        self._names = 0
        self.modules: list[tuple[str, str]] = []
        if self._chance(0.3):
            self._library(number)
        self.modules.append((f"p{number}.rego", self._main(number)))

    def _library(self, number: int) -> None:
        """Write a package of its own, which the main one refers to."""
        lines = [f"package lib{number}.u"]
        for _ in range(self._rand.randrange(1, 4)):
            lines.append(self._pick([self._helper, self._set, self._function])())
        self.modules.append((f"lib{number}.rego", "\n".join(lines) + "\n"))
        prefix = self._pick(["u", f"data.lib{number}.u"])
        self._values = [f"{prefix}.{name}" for name in self._values]
        self._sets = [f"{prefix}.{name}" for name in self._sets]
        self._functions = [(f"{prefix}.{name}", arity) for name, arity in self._functions]
        self._documents += self._values

    def _main(self, number: int) -> str:
        lines = [f"package p{number}"]
        if self.modules:
            lines.append(f"import data.lib{number}.u")
        if self._chance(0.4):
            path, name = self._pick([("input.o", "io"), ("data.d.o", "dd")])
            lines.append(f"import {path} as {name}")
            self._documents += [name, name]
            self._collections += [name, name]
        for _ in range(self._rand.randrange(4)):
            lines.append(self._pick([self._helper, self._set, self._function])())
        if self._chance(0.2):
            known = (list(self._documents), list(self._collections))
            self._documents = [name for name in self._documents if name not in ("io", "dd")]
            self._collections = [name for name in self._collections if name not in ("io", "dd")]
            rest = self._rule("r", []) if self._chance(0.5) else self._helper()
            imports = f"import data.lib{number}.u\n" if self.modules else ""
            self.modules.append((f"p{number}-more.rego", f"package p{number}\n{imports}{rest}\n"))
            self._documents, self._collections = known
        lines.append(self._rule("r", []))
        return "\n".join(lines) + "\n"

    def _chance(self, part: float) -> bool:
        return self._rand.random() < part

    def _pick(self, choices: list[Any]) -> Any:
        return self._rand.choice(choices)

    def _new(self, prefix: str = "v") -> str:
        # Seldom a name that is there already: in an inner body it hides the outer one.
        if self._chance(0.08):
            return f"{prefix}0"
        self._names += 1
        return f"{prefix}{self._names}"

    def _new_name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    # -- rules

    def _helper(self) -> str:
        name = self._new_name("h")
        text = self._rule(name, [])
        self._values.append(name)
        return text

    def _set(self) -> str:
        name = self._new_name("s")
        clauses = []
        for _ in range(self._rand.randrange(1, 3)):
            scope: list[str] = []
            body = self._body(scope, 2)
            clauses.append(f"{name} contains {self._term(scope, 1)} if {body}")
        self._sets.append(name)
        return "\n".join(clauses)

    def _function(self) -> str:
        name, arity = self._new_name("f"), self._rand.randrange(1, 3)
        clauses = []
        for _ in range(self._rand.randrange(1, 4)):
            parameters = [
                self._pick([self._scalar(), "_"]) if self._chance(0.25) else f"x{index}"
                for index in range(arity)
            ]
            scope = [each for each in parameters if each.startswith("x")]
            head = f"{name}({', '.join(parameters)})"
            is_bare = self._chance(0.4)
            result = "" if is_bare else f" := {self._term(scope, 1)}"
            own = list(scope)
            clauses.append(f"{head}{result} if {self._body(scope, 2)}")
            if self._chance(0.2):
                clauses[-1] += f" else := {self._term(own, 1)} if {self._body(own, 1)}"
        self._functions.append((name, arity))
        return "\n".join(clauses)

    def _rule(self, name: str, scope: list[str]) -> str:
        lines = []
        if self._chance(0.4):
            lines.append(f"default {name} := {self._scalar()}")
        is_bare = self._chance(0.6)
        table = self._pick(["input.a", "input.l[0]", 'input.o["b"]']) if self._chance(0.1) else ""
        for number in range(12 if table else self._rand.randrange(1, 4)):
            own = list(scope)
            body = self._body(own, 2)
            if table:
                body = body.replace("{", f"{{\n  {table} == {json.dumps(TEXTS[number % 5])}", 1)
            result = "" if is_bare else f" := {self._value(own, 2)}"
            lines.append(f"{name}{result} if {body}")
            if self._chance(0.15):
                lines[-1] += f" else := {self._term([], 1)}"
                if self._chance(0.5):
                    lines[-1] += f" if {self._body([], 1)}"
        return "\n".join(lines)

    def _value(self, scope: list[str], depth: int) -> str:
        if self._chance(0.6):
            return self._scalar()
        return self._expression(scope, depth) if self._chance(0.3) else self._term(scope, depth)

    # -- bodies

    def _body(self, scope: list[str], depth: int) -> str:
        return "{" + self._literals(scope, depth, outermost=True) + "}"

    def _literals(self, scope: list[str], depth: int, *, outermost: bool = False) -> str:
        count = self._pick([1, 1, 2, 3]) if depth > 1 else self._pick([1, 1, 2])
        parts = [self._literal(scope, depth) for _ in range(count)]
        # OPA refuses names behind `some` that nothing uses.
        text = "; ".join(parts)
        for name in dict.fromkeys(re.findall(r"\b[vki]\d+\b", text)):
            if len(re.findall(rf"\b{name}\b", text)) == 1 and name in scope:
                parts.append(f"count([{name}]) == 1")
        if outermost:
            return "\n  " + self._pick(["\n  ", "; ", "\n\n  # x\n  "]).join(parts) + "\n"
        return " " + "; ".join(parts) + " "

    def _literal(self, scope: list[str], depth: int) -> str:
        forms: list[Callable[[list[str], int], str]] = [
            self._condition,
            self._condition,
            self._condition,
            self._negation,
            self._negation,
            self._some,
            self._assign,
            self._iteration,
        ]
        if depth > 1:
            forms.append(self._every)
        return str(self._pick(forms)(scope, depth))

    def _condition(self, scope: list[str], depth: int) -> str:
        if self._chance(0.25):
            return self._named(scope, depth)
        return self._expression(scope, depth)

    def _negation(self, scope: list[str], depth: int) -> str:
        return f"not {self._condition(scope, depth)}"

    def _expression(self, scope: list[str], depth: int) -> str:
        sign = self._pick(["==", "!=", "in"] if self._plain else [*COMPARISONS, "==", "=="])
        # Two terms of known types are mostly refused by OPA's type checker.
        left, right = self._named(scope, depth - 1), self._term(scope, depth - 1)
        if self._chance(0.3):
            left, right = right, left
        if self._chance(0.1):
            left = f"{left} {self._pick(['+', '-', '*'])} {self._pick(['1', '2', 'input.b'])}"
        return f"{left} {sign} {right}"

    def _some(self, scope: list[str], depth: int) -> str:
        domain = self._collection(scope, depth - 1)
        name = self._new()
        if self._chance(0.4):
            key = self._pick(["_", self._new("k")])
            scope += [each for each in (key, name) if each != "_"]
            return f"some {key}, {name} in {domain}"
        scope.append(name)
        return f"some {name} in {domain}"

    def _assign(self, scope: list[str], depth: int) -> str:
        term = self._expression(scope, depth) if self._chance(0.2) else self._term(scope, depth)
        name = self._new()
        known = list(scope)
        scope.append(name)
        if self._chance(0.1):
            return f"some {name}; {name} = {self._term(known, depth)}"
        if known and self._chance(0.1):
            return f"{self._pick(known)} = {term}; {name} := 1"
        return f"{name} := {term}"

    def _iteration(self, scope: list[str], depth: int) -> str:
        base = self._pick([*self._collections, *scope, *self._sets])
        key, more = "_", ""
        if self._chance(0.4):
            key = self._new("i")
            more = f"some {key}; " if self._chance(0.7) else ""
            scope.append(key)
        tail = self._pick(["", "", ".a", "[0]", "[_]"])
        if self._chance(0.5):
            name = self._new()
            scope.append(name)
            return f"{more}{name} := {base}[{key}]{tail}"
        return f"{more}{base}[{key}]{tail} == {self._term(scope[:-1], 0)}"

    def _every(self, scope: list[str], depth: int) -> str:
        domain = self._collection(scope, depth - 1)
        name = self._new()
        inner = [*scope, name]
        body = self._literals(inner, 1)
        used = "" if re.search(rf"\b{name}\b", body) else f"; count([{name}]) == 1"
        if self._chance(0.3):
            key = self._new("k")
            return f"every {key}, {name} in {domain} {{{body}{used}; count([{key}]) == 1 }}"
        return f"every {name} in {domain} {{{body}{used} }}"

    # -- terms

    def _scalar(self) -> str:
        kind = self._rand.random()
        if kind < 0.5:
            text = json.dumps(self._pick(TEXTS), ensure_ascii=False)
            return text if self._chance(0.8) or "\\" in text else f"`{text[1:-1]}`"
        return str(self._pick(NUMBER_TEXTS if kind < 0.8 else SCALAR_TEXTS))

    def _named(self, scope: list[str], depth: int) -> str:
        forms = [*(scope * 2), *self._values, *self._documents]
        base = str(self._pick(forms))
        for _ in range(self._rand.randrange(3) if base not in ("input",) else 2):
            base += self._step(scope, depth)
        return base

    def _step(self, scope: list[str], depth: int) -> str:
        kind = self._rand.random()
        if kind < 0.5:
            return str(self._pick([".a", ".b", ".l", ".o", '["k x"]', "[0]", "[1]", "[1.0]"]))
        if kind < 0.65 and scope:
            return f"[{self._pick(scope)}]"
        if kind < 0.75 and depth > 0:
            return f"[{self._named(scope, depth - 1)}]"
        return str(self._pick([".a", ".b", ".l[0]"]))

    def _collection(self, scope: list[str], depth: int) -> str:
        known = [*self._collections, "input.a", *self._sets]
        if self._chance(0.75) or depth < 1:
            return str(self._pick(known))
        return self._term(scope, depth)

    def _term(self, scope: list[str], depth: int) -> str:
        kind = self._rand.random()
        if depth < 1 or kind < 0.5:
            return self._scalar() if self._chance(0.4) else self._named(scope, depth)
        if kind < 0.58:
            return f"[{self._items(scope, depth)}]"
        if kind < 0.66:
            return f"{{{self._items(scope, depth, least=1)}}}"
        if kind < 0.72:
            keys = self._rand.sample(KEYS, self._rand.randrange(3))
            items = [f'"{key}": {self._term(scope, depth - 1)}' for key in keys]
            return "{" + ", ".join(items) + "}"
        if kind < 0.8:
            return self._comprehension(scope, depth)
        if kind < 0.88 and self._functions:
            name, arity = self._pick(self._functions)
            arguments = ", ".join(self._term(scope, depth - 1) for _ in range(arity))
            return f"{name}({arguments})"
        return self._builtin(scope, depth)

    def _items(self, scope: list[str], depth: int, least: int = 0) -> str:
        count = self._rand.randrange(least, 4)
        return ", ".join(self._term(scope, depth - 1) for _ in range(count))

    def _comprehension(self, scope: list[str], depth: int) -> str:
        inner = list(scope)
        body = self._literals(inner, 1)
        opening, closing = self._pick(["[]", "{}"])
        return f"{opening}{self._term(inner, depth - 1)} |{body}{closing}"

    def _builtin(self, scope: list[str], _depth: int) -> str:
        name, arity = self._pick(BUILTIN_CALLS)
        arguments = [
            self._named(scope, 0)
            if self._chance(0.7)
            else json.dumps(self._pick(TEXTS), ensure_ascii=False)
            for _ in range(arity)
        ]
        comma = self._pick([", ", ", ", ",\n    # y, (\n    "])
        return f"{name}({comma.join(arguments)})"


def mutated(program: Program, rand: random.Random) -> Program:
    """Return a program with a few tokens lost, doubled, put elsewhere, or parted by lines."""
    modules = []
    for file, source in program.modules:
        text = source
        for _ in range(rand.randrange(1, 4)):
            text = _edited(text, rand)
        modules.append((file, text))
    program.modules[:] = modules
    return program


def _edited(source: str, rand: random.Random) -> str:
    try:
        tokens = scan_tokens(source)[3:]
    except ScanError:
        return source
    if not tokens:
        return source
    one, other = rand.choice(tokens), rand.choice(tokens)
    before, text, behind = source[: one.start], one.text, source[one.end :]
    edits = [
        before + behind,
        before + other.text + behind,
        f"{before}{text} {other.text}{behind}",
        f"{before}\n{text}{behind}",
        f"{before}{text}\n{behind}",
        f"{before} {text}{behind}",
        before + rand.choice(STRAYS) + text + behind,
    ]
    return rand.choice(edits)


STRAYS = (
    *(";", "(", ")", "[", "]", "{", "}", "|", "&", "+", "-", "*", "/", "%", ".", ",", ":=", "="),
    *("==", "_", "-1", "1", "in", "if", "else", "true", "null", "set()", "input", "u", "not "),
    *("with input as {}", " as ", "some ", "every ", "contains ", '"a"', " # c\n", "`x`", "\n\n"),
)
BUILTIN_CALLS = [
    *((name, 1) for name in ("lower", "upper", "trim_space", "count", "is_string", "is_number")),
    *((name, 1) for name in ("is_boolean", "is_null", "is_array", "is_object", "is_set")),
    *((name, 2) for name in ("startswith", "endswith", "contains", "split", "concat")),
    *((name, 2) for name in ("trim", "trim_left", "trim_right", "trim_prefix", "trim_suffix")),
    ("regex.match", 2),
    ("glob.match", 3),
    ("replace", 3),
    ("object.get", 3),
]
