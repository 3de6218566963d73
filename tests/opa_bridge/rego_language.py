"""Random programs over the whole of Rego that loads: what the plain fragment leaves to the library.

A program is a module of package `p<number>` with some probes, the rules `q0`, `q1`, …; each
comes from one form below, filled at random. Names and numbers of a program depend on seed and
number alone. What OPA refuses to compile is for the caller to drop.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from rego_language_terms import COMPARISONS, NUMBERS, TEXTS, Terms

PROBES = 4
DATA_KEYS = ["a", "b", "l", "o", "k x", "__proto__", "a.b", "a/b", "é", "0", ""]
PATTERNS = ["`^a`", '"b$"', "`^[a-z]+$`", "`a.b`", '"(?i)A"', "`\\d`", "`^$`", "`a|b`", "`x{2}`"]
PATTERNS += ["`\\bа`", "`[^a]`", "`(a)(b)?`", "`é`", "`a*?b`", "`\\x61`", "`(`", "`\\pL`"]
GLOBS = ['"a*"', '"*"', '"**"', '"a/*"', '"?"', '"[ab]"', '"[!a]"', '"{a,b}"', '"a.b"', '"*.b"']
DELIMITERS = ["null", "[]", '["/"]', '["."]', '["/", "."]', '[""]', '["ab"]', "input.l"]


class LanguageProgram(Terms):
    """One random program; `modules` are file names and sources, `probes` the rules to ask."""

    def __init__(self, number: int, seed: str, forms: list[str] | None = None) -> None:
        """Write the program of a number; `forms` restricts what it is made of."""
        super().__init__(random.Random(f"language {seed} {number}"))
        self.used: list[str] = []
        lines = [f"package p{number}", ""]
        self.probes = [f"q{each}" for each in range(PROBES)]
        known = [each for each in FORMS if forms is None or each.__name__ in forms]
        for probe in self.probes:
            form = self.rand.choice(known)
            self.used.append(form.__name__)
            lines += [f"# {form.__name__}", form(self, probe), ""]
        self.modules = [(f"p{number}.rego", "\n".join(lines))]


def comprehensions(made: LanguageProgram, probe: str) -> str:
    """Comprehensions, nested, of every kind."""
    return f"{probe} := {made.comprehension([], 2)}"


def bodies(made: LanguageProgram, probe: str) -> str:
    """A rule of one body, with a value from it."""
    scope: list[str] = []
    body = made.body(scope, 2)
    return f"{probe} := {made.term(scope, 1)} if {{ {body} }}"


def defaults(made: LanguageProgram, probe: str) -> str:
    """A default, and a body that may not hold."""
    return f"default {probe} := {made.scalar()}\n{probe} if {{ {made.body([], 1)} }}"


def else_chains(made: LanguageProgram, probe: str) -> str:
    """Several ways to a value, in order."""
    text = f"{probe} := {made.scalar()} if {{ {made.body([], 1)} }}"
    for _ in range(made.rand.randrange(1, 4)):
        scope: list[str] = []
        body = made.body(scope, 1)
        text += f" else := {made.term(scope, 1)} if {{ {body} }}"
    return text + (f" else := {made.scalar()}" if made.chance(0.4) else "")


def conflicts(made: LanguageProgram, probe: str) -> str:
    """A complete rule of several clauses, which may disagree."""
    clauses = [
        f"{probe} := {made.pick('1', '2', made.place())} if {made.condition([], 1)}"
        for _ in range(3)
    ]
    return "\n".join(clauses)


def partial_sets(made: LanguageProgram, probe: str) -> str:
    """A partial set that is looked into, iterated, or counted."""
    name = made.new("s")
    lines = []
    for _ in range(made.rand.randrange(1, 3)):
        scope: list[str] = []
        body = made.body(scope, 1)
        lines.append(f"{name} contains {made.term(scope, 1)} if {{ {body} }}")
    lines.append(_looked_into(made, probe, name))
    return "\n".join(lines)


def partial_objects(made: LanguageProgram, probe: str) -> str:
    """A partial object, whose keys may be given twice."""
    name = made.new("o")
    lines = []
    for _ in range(made.rand.randrange(1, 3)):
        scope: list[str] = []
        body = made.body(scope, 1)
        lines.append(f"{name}[{made.term(scope, 0)}] := {made.term(scope, 1)} if {{ {body} }}")
    lines.append(_looked_into(made, probe, name))
    return "\n".join(lines)


def _looked_into(made: LanguageProgram, probe: str, name: str) -> str:
    key = made.term([], 0)
    return made.pick(
        f"{probe} := {name}",
        f"{probe} := count({name})",
        f"{probe} := {name}[{key}]",
        f"{probe} if {key} in {name}",
        f"{probe} if not {name}[{key}]",
        f"{probe} := [x | some x in {name}]",
        f"{probe} := {{k: x | some k, x in {name}}}",
        f"{probe} if every x in {name} {{ is_string(x) }}",
    )


def ref_heads(made: LanguageProgram, probe: str) -> str:
    """Heads of several parts."""
    name = made.new("h")
    head = made.pick(f"{name}.a", f"{name}.a.b", f'{name}["x y"]', f"{name}.a[k]")
    body = f" if {made.condition([], 1)}"
    if head.endswith("[k]"):
        body = " if some k in input.l"
    lines = [f"{head} := {made.term([], 1)}{body}"]
    if made.chance(0.5):
        lines.append(f"{name}.c contains {made.scalar()} if {made.condition([], 1)}")
    asked = made.pick(name, f"{name}.a", f"{name}.c", f"{name}[_]", f"{name}.a.b")
    return "\n".join([*lines, f"{probe} := [x | x := {asked}]"])


def functions(made: LanguageProgram, probe: str) -> str:
    """A function with patterns for parameters, a default, or an `else`."""
    name, scope = made.new("f"), ["x"]
    head = made.pick("x", "x", "[x, _]", '{"a": x}', "[x, 1]", '"a", x', "x, _")
    arity = 2 if head in ('"a", x', "x, _") else 1
    lines = []
    if made.chance(0.3):
        lines.append(f"default {name}({', '.join(['_'] * arity)}) := {made.scalar()}")
    for _ in range(made.rand.randrange(1, 3)):
        inner = list(scope)
        body = made.body(inner, 1)
        lines.append(f"{name}({head}) := {made.term(inner, 1)} if {{ {body} }}")
        if made.chance(0.3):
            lines[-1] += f" else := {made.term(scope, 0)}"
    arguments = ", ".join(made.term([], 1) for _ in range(arity))
    asked = f"{name}({arguments})"
    lines.append(made.pick(f"{probe} := {asked}", f"{probe} if not {asked}", f"{probe} if {asked}"))
    return "\n".join(lines)


def withs(made: LanguageProgram, probe: str) -> str:
    """A rule or function asked with other documents."""
    name = made.new("w")
    body = made.body([], 1)
    lines = [
        f"{name} := [x | x := {made.place()}]" if made.chance(0.4) else f"{name} if {{ {body} }}"
    ]
    asked = name
    for _ in range(made.rand.randrange(1, 3)):
        target = made.pick(
            "input", "input.a", "input.l", "input.o.b", "data.d.a", "data.d", "data.d.new", "data.z"
        )
        asked += f" with {target} as {made.term([], 1)}"
    sign = made.pick("", "", "not ")
    if made.chance(0.5) and not sign:
        return "\n".join([*lines, f"{probe} := y if y := {asked}"])
    return "\n".join([*lines, f"{probe} if {sign}{asked}"])


def patterns(made: LanguageProgram, probe: str) -> str:
    """Arrays and objects on both sides of `=` and `:=`."""
    left = made.pick("[x, y]", "[x, _, y]", '{"a": x, "b": y}', '{"a": [x, y]}', '[x, {"b": y}]')
    right = made.pick("input.l", "input.o", "input", "data.d.o", "input.a", made.term([], 2))
    sign = made.pick(":=", "=")
    more = made.pick("", "", "; x == y", "; x != y", "; not x == y", "; z = x", "; [1, x] = [1, y]")
    if made.chance(0.3):
        fixed = made.scalar()
        return f"{probe} := x if {{ [x, {fixed}] = {right} }}"
    return f"{probe} := [x, y] if {{ {left} {sign} {right}{more} }}"


def joins(made: LanguageProgram, probe: str) -> str:
    """One variable in two places."""
    one, other = made.list_([]), made.list_([])
    return made.pick(
        f"{probe} := {{i | some i; {one}[i] == {other}[i]}}",
        f"{probe} := {{[i, j] | some i, j; {one}[i] == {other}[j]}}",
        f"{probe} := {{i | {one}[i] = {other}[i]}}",
        f"{probe} := {{x | {one}[_] = x; {other}[_] = x}}",
        f"{probe} if {{ some i; {one}[i]; not {other}[i] }}",
        f"{probe} := {{x | x := {one}[_]; not x in {other}}}",
    )


def walks(made: LanguageProgram, probe: str) -> str:
    """All paths and values of a document."""
    domain = made.term([], 2)
    test = made.pick("is_string(v)", "is_number(v)", "v == 1", "count(p) > 1", 'p[_] == "a"')
    return made.pick(
        f"{probe} := {{[p, v] | walk({domain}, [p, v])}}",
        f"{probe} := {{p | walk({domain}, [p, v]); {test}}}",
        f"{probe} := {{v | some p, v; walk({domain}, [p, v]); {test}}}",
        f"{probe} if {{ walk({domain}, [_, {made.scalar()}]) }}",
    )


def arithmetic(made: LanguageProgram, probe: str) -> str:
    """Numbers and what is worked out of them."""

    def part() -> str:
        return made.rand.choice([*NUMBERS, "input.a", "input.b", "input.l[0]", "1000000000000"])

    sign = made.rand.choice(["+", "-", "*", "/"])
    whole = f"{part()} {sign} {part()}"
    if made.chance(0.4):
        whole = f"({whole}) {made.rand.choice(['+', '-', '*', '/'])} {part()}"
    text = made.pick(f"{whole}", f"round({whole})", f"floor({whole})", f"abs({whole})")
    compared = f"{whole} {made.rand.choice(COMPARISONS)} {part()}"
    return f"{probe} := {made.pick(text, compared)}"


def sets(made: LanguageProgram, probe: str) -> str:
    """Sets, their operators and their order."""

    def one() -> str:
        items = [made.term([], 1) for _ in range(made.rand.randrange(1, 5))]
        return made.pick(f"{{{', '.join(items)}}}", "{x | some x in input.l}", "set()")

    sign = made.rand.choice(["|", "&", "-"])
    return made.pick(
        f"{probe} := {one()} {sign} {one()}",
        f"{probe} := {{x | some x in {one()}}}",
        f"{probe} if {one()} == {one()}",
        f"{probe} := {one()} {made.rand.choice(COMPARISONS)} {one()}",
        f"{probe} := [union({{{one()}, {one()}}}), intersection({{{one()}, {one()}}})]",
        f"{probe} := [max({one()}), min({one()}), sort({one()})]",
    )


def orders(made: LanguageProgram, probe: str) -> str:
    """Comparisons of any two values."""
    one, other = made.term([], 2), made.term([], 2)
    sign = made.rand.choice(["<", "<=", ">", ">="])
    return made.pick(
        f"{probe} := {one} {sign} {other}",
        f"{probe} if not {one} {sign} {other}",
        f"{probe} := {{x | some x in input.l; x {sign} {other}}}",
        f"{probe} if {{ some x in input.l; some y in data.d.l; x {sign} y }}",
    )


def texts(made: LanguageProgram, probe: str) -> str:
    """Built-ins of texts."""
    one, other = (made.pick(made.place(), made.rand.choice(TEXTS)) for _ in range(2))
    return made.pick(
        f"{probe} := regex.match({made.rand.choice(PATTERNS)}, {one})",
        f"{probe} := glob.match({made.rand.choice(GLOBS)}, {made.rand.choice(DELIMITERS)}, {one})",
        f'{probe} := sprintf("{made.pick("%s", "%d", "%v", "%v-%s", "é%s", "x%%")}", [{one}])',
        f"{probe} := split({one}, {other})",
        f"{probe} := {made.pick('contains', 'startswith', 'endswith')}({one}, {other})",
        f"{probe} := replace({one}, {other}, {made.rand.choice(TEXTS)})",
        f"{probe} := substring({one}, {made.pick('0', '1', '-1')}, {made.pick('1', '-1', '9')})",
        f"{probe} := {made.pick('upper', 'lower', 'trim_space', 'count')}({one})",
        f"{probe} := [c | some c in {one}]",
        f"{probe} := {one}[0]",
        f"{probe} if not {made.pick('contains', 'startswith')}({one}, {other})",
    )


def objects(made: LanguageProgram, probe: str) -> str:
    """Built-ins of objects and documents."""
    one = made.pick("input.o", "input", "data.d.o", made.term([], 2))
    key, value = made.scalar(), made.term([], 1)
    way = made.pick('["o", "a"]', '["l", 0]', "[]", '["l", "0"]', key)
    patch = made.pick("add", "remove", "replace", "test", "move", "copy")
    where = made.pick('"/a"', '"/l/0"', '"/l/-"', '"a"', '["a"]', '"/o/a~1b"', '""', '"/x/y"')
    return made.pick(
        f"{probe} := object.get({one}, {way}, {value})",
        f"{probe} := object.keys({one})",
        f"{probe} := object.remove({one}, {{{key}, {made.scalar()}}})",
        f"{probe} := object.filter({one}, [{key}, {made.scalar()}])",
        f"{probe} := json.filter({one}, [{made.pick(where, way)}])",
        f"{probe} := json.remove({one}, [{made.pick(where, way)}])",
        f'{probe} := json.patch({one}, [{{"op": "{patch}", "path": {where}, "value": {value}, '
        f'"from": "/a"}}])',
        f"{probe} := array.concat({made.list_([])}, {made.list_([])})",
        f"{probe} := array.slice({made.list_([])}, {made.rand.choice(NUMBERS)}, 2)",
        f"{probe} := {one}[{key}]",
        f"{probe} if not {one}[{key}]",
    )


def composite_keys(made: LanguageProgram, probe: str) -> str:
    """Objects with keys of any kind."""
    pairs = [f"{made.term([], 1)}: {made.term([], 1)}" for _ in range(made.rand.randrange(1, 4))]
    one = f"{{{', '.join(pairs)}}}"
    return made.pick(
        f"{probe} := [[k, x] | some k, x in {one}]",
        f"{probe} := count({one})",
        f"{probe} if {{ x := {one}; x[{made.term([], 1)}] }}",
        f"{probe} if {one} == {{{', '.join(reversed(pairs))}}}",
    )


def odd_data(made: LanguageProgram, probe: str) -> str:
    """Keys of data and input that are no names."""
    key = made.rand.choice(DATA_KEYS)
    root = made.pick("data.d", "input.o", "input", "data")
    return made.pick(
        f'{probe} := {root}["{key}"]',
        f'{probe} if not {root}["{key}"]',
        f'{probe} := [x | some k, x in {root}; k == "{key}"]',
        f'{probe} if "{key}" in object.keys({root})',
        f"{probe} := {{k | data.d[k]}}",
    )


def truths(made: LanguageProgram, probe: str) -> str:
    """False, null and undefined where something must hold."""
    place = made.place()
    return made.pick(
        f"{probe} if {place}",
        f"{probe} if not {place}",
        f"{probe} if {{ x := {place}; not x }}",
        f"{probe} := x if x := {place}",
        f"{probe} if {place} != {made.scalar()}",
        f"{probe} if not {place} == {made.scalar()}",
        f"{probe} if {{ x := {place} == {made.scalar()}; not x }}",
        f"{probe} := [{place} == null, {place} == false]",
        f"{probe} if not not_there.x\nnot_there := {made.term([], 1)} if {made.condition([], 1)}"
        if probe == "q0"
        else f"{probe} if {place} = {made.scalar()}",
    )


Form = Callable[[LanguageProgram, str], str]
FORMS: list[Form] = [
    *(comprehensions, bodies, defaults, else_chains, conflicts, partial_sets, partial_objects),
    *(ref_heads, functions, withs, patterns, joins, walks, arithmetic, sets, orders, texts),
    *(objects, composite_keys, odd_data, truths),
]


def data_document(rand: random.Random, value: Callable[[random.Random, int], Any]) -> Any:
    """Return data with keys of every kind."""
    return {key: value(rand, 2) for key in DATA_KEYS if rand.random() < 0.8}
