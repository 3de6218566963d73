"""Which lines of Rego an evaluation comes to, line by line, and that the answer stays the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from opa_bridge.polyfills import supply_polyfills
from opa_bridge.probe import Probe
from opa_bridge.rego_marks import LineCounts, mark_modules
from opa_bridge.rego_module import Module, scan_module
from opa_bridge.rego_tests import ways_printed
from opa_bridge.scanner import scan_tokens
from opa_bridge.statements import branches_of, rules_of, steps_of

# Each line that counts says in its comment whether it is reached: 1 or 0.
CASES: dict[str, tuple[str, Any]] = {
    "a body up to its first statement that fails": (
        """package p
default answer := false
answer if { # 0
	input.a # 1
	some x in input.list # 1
	x > 5 # 1
	input.never # 1
	input.later # 0
}
""",
        {"a": 1, "list": [9]},
    ),
    "one way of many is enough": (
        """package p
answer := xs if { # 1
	xs := [x | some x in input.list; x > 5] # 1
	some y in xs # 1
	y == 9 # 1
}
""",
        {"list": [1, 9, 7]},
    ),
    "functions, else, several clauses": (
        """package p
answer := {"a": f(3), "b": f(30), "c": g(1)} # 1
f(x) := "small" if { # 1
	x < 10 # 1
} else := "middle" if { # 1
	x < 100 # 1
} else := "large" # 0
g(x) := 1 if x == 1 # 1
g(x) := 2 if x == 2 # 0
unused if input.z # 0
""",
        {},
    ),
    "not, every, with, sets": (
        """package p
answer if { # 1
	not input.x # 1
	every k in [1, 2] { k < 3 } # 1
	"b" in names # 1
	other with data.y as 1 # 1
}
names contains "a" if input.x # 0
names contains "b" if { # 1
	not input.x # 1
}
other if data.y == 1 # 1
""",
        {},
    ),
    "statements of several lines": (
        """package p
answer := { # 1
	"x": 1, # 1
} if { # 1
	input.q == [ # 1
		1, # 1
		2, # 1
	] # 1
	count( # 1
		input.q, # 1
	) == 2 # 1
}
""",
        {"q": [1, 2]},
    ),
}


def marked(source: str, document: Any) -> tuple[Any, dict[int, int]]:
    """The answer of the marked module, and the count of each line."""
    found = mark_modules([("p.rego", source)], ["p.rego"])
    probe = Probe(modules=found.modules, data={}, entrypoints=("p/answer",))
    [answer] = probe.ask([(0, document)])
    hits = Counter(n for n, ways in ways_printed(answer.printed).items() if ways)
    counts = LineCounts()
    counts.add(found.marks, hits)
    return answer.value, counts.by_file().get("p.rego", {})


@pytest.mark.parametrize(("source", "document"), CASES.values(), ids=CASES)
def test_lines_that_are_come_to(source: str, document: Any) -> None:
    """Every line with a statement counts, and just those that were evaluated are reached."""
    _, counts = marked(source, document)

    wanted = {
        number: int(found[1])
        for number, line in enumerate(source.splitlines(), 1)
        if (found := re.search(r"# ([01])$", line))
    }
    assert wanted == {line: min(count, 1) for line, count in counts.items()}


@pytest.mark.parametrize(("source", "document"), CASES.values(), ids=CASES)
def test_marks_change_no_answer(source: str, document: Any) -> None:
    """The module answers with marks as it does without."""
    probe = Probe(modules=(("p.rego", source),), data={}, entrypoints=("p/answer",))
    [plain] = probe.ask([(0, document)])

    assert plain.value == marked(source, document)[0]
    assert () == plain.printed


def test_only_the_files_that_are_named_are_marked() -> None:
    """A library beside the policy stays as it is; what cannot be scanned does too."""
    modules = [("a.rego", "package a\nx := 1\n"), ("b.rego", "package b\ny := 1\n"), ("c", '"')]

    found = mark_modules(modules, ["a.rego", "c"])

    assert modules[1:] == list(found.modules[1:3])
    assert {"a.rego"} == {mark.file for mark in found.marks}


def test_what_a_policy_prints_is_no_mark() -> None:
    """Lines of other forms are passed over."""
    lines = ("hello", "meshwarden-mark", "meshwarden-mark 1 2 3", "meshwarden-mark 4 0",
             "meshwarden-mark 4 2", "meshwarden-mark 4 1")  # fmt: skip

    assert {4: 2} == ways_printed(lines)


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ("a; b\n\tc", ["a", "b", "c"]),
        ("x := [1,\n\t2]\n\tx", ["x := [1,\n\t2]", "x"]),
        ("a ==\n\tb\n\tnot c", ["a ==\n\tb", "not c"]),
        ("a\n\t\twith input as 1\n\tb", ["a\n\t\twith input as 1", "b"]),
        ("every x in xs\n\t{ x }\n\t{y | some y}", ["every x in xs\n\t{ x }", "{y | some y}"]),
        ("a;\n\t# a comment; with signs\n\tb;", ["a", "b"]),
        ("a + # why\n\tb\n\t[1][0]", ["a + # why\n\tb", "[1][0]"]),
        ("x in {1, 2}\n\tsome k, v\n\tin y", ["x in {1, 2}", "some k, v\n\tin y"]),
    ],
)
def test_statements_of_a_body(body: str, steps: list[str]) -> None:
    """A statement ends at `;`, or with a line that nothing goes on from."""
    source = f"package p\nrule if {{\n\t{body}\n}}\n"
    [rule] = rules_of(scan_tokens(source))
    [branch] = branches_of(rule)
    assert branch.body is not None

    assert steps == [source[step[0].start : step[-1].end] for step in steps_of(branch.body)]


def test_marks_change_no_answer_of_the_engines_cases() -> None:
    """The cases that the engines are held against are answered alike, all in one process."""
    cases = [
        case
        for case in yaml.safe_load(Path(__file__).with_name("direct_cases.yaml").read_text())
        if "rego" in case and "data" not in case["rego"] and not _NOT_HERE.search(case["note"])
    ]
    modules = [(f"{n}.rego", f"package a{n}\n{case['rego']}\n") for n, case in enumerate(cases)]
    marked = mark_modules(modules, [file for file, _ in modules])
    queries = [(n, case.get("input")) for n, case in enumerate(cases)]

    plain, with_marks = (
        [(answer.value, answer.error) for answer in _probe(each, len(cases)).ask(queries)]
        for each in (modules, marked.modules)
    )

    assert len(cases) > 60
    assert plain == with_marks


# Evaluations without an end, and modules that the library does not compile.
_NOT_HERE = re.compile(
    "without end|no end|rules of several kinds|for the library|a statement behind"
)


def _probe(modules: Iterable[tuple[str, str]], count: int) -> Probe:
    scanned = (scan_module(file, source) for file, source in modules)
    supplied = supply_polyfills(found for found in scanned if isinstance(found, Module))
    return Probe(
        modules=tuple(supplied), data={}, entrypoints=tuple(f"a{n}/r" for n in range(count))
    )
