"""No spelling brings a built-in that is refused past the check, and what is refused is told."""

from __future__ import annotations

import pytest

from opa_bridge.builtin_table import BUILTINS, OPERATORS, Kind
from opa_bridge.capabilities import Module, check_entrypoint, check_modules, scan_module
from policies.diagnostic import Diagnostic, Severity

REFUSED = sorted(
    name
    for name, each in BUILTINS.items()
    if each.kind is Kind.REFUSED and name not in OPERATORS and not name.startswith("internal.")
)
DOTTED = [name for name in REFUSED if "." in name]
# `{}` stands for a call of the built-in with arguments of the right number.
CALLS = [
    "r := {}",
    "r if {}",
    "r if not {}",
    "r := 1 if false else := {}",
    "r := [{}]",
    "r := [x | x := {}]",
    'r := {{"a": {}}}',
    "r := input[{}]",
    "r if every x in {} {{ x }}",
    "r if some x in {}",
    "r if input.x == {}",
    "r if input.x with input.x as {}",
    "f(x) := {}\nr := f(1)",
    "default r := {}",
    "r contains {}",
]
# `{}` stands for its name.
NAMES = ["r := {}", "r if {} == 1", "r if f(1) with f as {}\nf(_) := 1", "r if {}[0]"]


def found_in(*sources: str, package: str = "p") -> list[Diagnostic]:
    """Return what is found in modules of one package."""
    modules = [scan_module(f"{n}.rego", f"package {package}\n{s}\n") for n, s in enumerate(sources)]
    good = [each for each in modules if isinstance(each, Module)]
    assert len(good) == len(modules)
    return check_modules(good)


def call_of(name: str) -> str:
    """Return a call with as many arguments as the built-in takes."""
    return f"{name}({', '.join('input.x' for _ in BUILTINS[name].arguments)})"


@pytest.mark.parametrize("name", REFUSED)
def test_no_call_of_a_refused_builtin_passes(name: str) -> None:
    """Wherever it is called it is refused by its name, with the reason and what to do."""
    builtin = BUILTINS[name]
    for spelling in CALLS:
        found = [e for e in found_in(spelling.format(call_of(name))) if e.code == "rego.builtin"]
        assert found, spelling
        shown = "%" if name == "rem" else name
        assert found[0].message == f"`{shown}` is not supported: {builtin.note}"
        assert found[0].help == builtin.advice
        assert (found[0].location.file, found[0].severity) == ("0.rego", Severity.ERROR)


@pytest.mark.parametrize("name", DOTTED)
def test_no_name_of_a_refused_builtin_passes(name: str) -> None:
    """Nor may it be named, taken apart or led to by brackets."""
    first, _, last = name.rpartition(".")
    for spelling in NAMES:
        assert "rego.builtin" in {each.code for each in found_in(spelling.format(name))}, spelling
    for spelled in (f'{first}["{last}"]()', f"{first}[`{last}`](1)", f'{first}["{last}"]'):
        codes = {each.code for each in found_in(f"r := {spelled}")}
        assert codes & {"rego.builtin", "rego.call"}, spelled


@pytest.mark.parametrize("name", ["opa.runtime", "http.send", "time.now_ns", "print", "nope"])
def test_only_a_test_may_mock_what_is_refused(name: str) -> None:
    """What a test mocks is taken, and nothing else beside it."""
    given = "input.x" if name == "http.send" else ""
    module = scan_module("a.rego", f"package p\nr := {name}({given})\nq := uuid.rfc4122(1)\n")
    assert isinstance(module, Module)
    wanted = ["`uuid.rfc4122` is not supported: its answer is not a function of the input"]
    assert wanted == [each.message for each in check_modules([module], {name})]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("r := nope(1)", [("rego.builtin", 2)]),
        ("r := opa.nope()", [("rego.builtin", 2)]),
        ("r := rego.v1", []),
        ("r := set()", []),
        ("r := set(1)", [("rego.builtin", 2)]),
        ("nope(_) := 1\nr := nope(1)", []),
        ("import data.q.nope\nr := nope(1)", []),
        ("import data.q as opa\nr := opa.runtime()", [("rego.builtin", 3)]),
        ("r := input.opa.runtime", []),
        ('r := input["a"]("b")', [("rego.call", 2)]),
        ("r := [1]\ns := (2)", []),
        ("r := data.meshwarden_builtins.x", [("rego.reserved", 2)]),
        ("f(_) := 1\nr if f(1) with upper as f", [("rego.mock", 3)]),
        ("f(_) := 1\nr if f(1) with f as upper", [("rego.mock", 3)]),
        ("r := upper(1, 2, 3)", [("rego.arguments", 2)]),
        ("r := upper()", [("rego.arguments", 2)]),
        ("r := input.l[1]", []),
        ("r := input.l[1.0]", [("rego.step", 2)]),
        ("r := input.l[1e0]", [("rego.step", 2)]),
        ("r := [1.5]", []),
        ("r if not input.l[_]", [("rego.negation", 2)]),
        ("r if not f([1 | input.l[_]])\nf(_)  := 1", []),
        ("r if input.a < input.b < 3", [("rego.ordering", 2), ("rego.ordering", 2)]),
    ],
)
def test_modules_are_checked(source: str, found: list[tuple[str, int]]) -> None:
    """Each finding has its code and its line, and nothing else is found."""
    assert found == [(each.code, each.location.line) for each in found_in(source)]


def test_packages_stand_beside_rules_of_others() -> None:
    """A package at or below the place of a rule is refused, any other is not."""
    sources = ["package a\nb := 1\n", "package a.b.c\nd := 1\n", "package a.e\nf := 1\n"]
    modules = [scan_module(f"{n}.rego", source) for n, source in enumerate(sources)]
    (found,) = check_modules([each for each in modules if isinstance(each, Module)])
    assert (found.code, found.location.file, found.location.line) == ("rego.package", "1.rego", 1)
    assert found.message == "the package lies at the place of the rule `a/b`"


@pytest.mark.parametrize(
    ("entrypoint", "help_"),
    [
        ("a/b", None),
        ("a/nope", "defined are a/b, a/c"),
        ("x/c", "defined are a/c"),
        ("x/nope", "write it as package/path/rule"),
        ("b", "defined are a/b"),
    ],
)
def test_an_entrypoint_is_a_rule(entrypoint: str, help_: str | None) -> None:
    """An entrypoint that nothing defines is told beside what is defined."""
    module = scan_module("a.rego", "package a\nb := 1\nc := 2\n")
    assert isinstance(module, Module)
    found = check_entrypoint([module], entrypoint, "config.yaml")
    assert [help_] * bool(help_) == [each.help for each in found]
    for each in found:
        assert (each.code, each.location.file) == ("rego.entrypoint", "config.yaml")
        assert each.message == f"no rule `{entrypoint}`"
