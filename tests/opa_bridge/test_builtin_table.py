"""Every built-in of OPA is classified, the page says so, and loading does as the table says."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from opa_process import MISSING, opa_binary

from opa_bridge.builtin_docs import builtins_page
from opa_bridge.builtin_table import BUILTINS, OPA_VERSION, OPERATORS, Kind
from opa_bridge.capabilities import Module, check_modules, scan_module
from opa_bridge.polyfills import function_name, polyfill_source, supply_polyfills
from policies.diagnostic import Severity

LISTED = json.loads(
    (Path(__file__).parents[2] / "opa_bridge" / "opa_builtins.json").read_text("utf-8")
)["builtins"]
CALLABLE = sorted(set(BUILTINS) - set(OPERATORS) - {"internal.print", "internal.test_case"})


def module_of(source: str, package: str = "p") -> Module:
    """Return a scanned module."""
    found = scan_module("m.rego", f"package {package}\n{source}\n")
    assert isinstance(found, Module)
    return found


def errors(*sources: str) -> list[tuple[str, int]]:
    """Return code and line of every error in modules of one package."""
    found = check_modules(module_of(source) for source in sources)
    return [(each.code, each.location.line) for each in found if each.severity is Severity.ERROR]


def respelled(source: str) -> str:
    """Return a module's source as the engine gets it."""
    return supply_polyfills([module_of(source)])[0][1].partition("\n")[2].strip()


def test_every_builtin_is_classified_once() -> None:
    """The table has exactly OPA's names; a refusal has its reason and what to do."""
    assert set(LISTED) == set(BUILTINS)
    for builtin in BUILTINS.values():
        if builtin.kind is Kind.REFUSED:
            assert builtin.note, builtin.name
            assert builtin.advice, builtin.name
        if builtin.kind is Kind.POLYFILL:
            head = function_name(builtin.name).rpartition(".")[2]
            assert f"\n{head}(" in polyfill_source(builtin.module), builtin.name


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
def test_opa_lists_the_same_builtins() -> None:
    """The committed list is what the real OPA of that version says of itself."""
    opa = str(opa_binary())
    version = subprocess.run([opa, "version"], capture_output=True, text=True, check=True).stdout
    if f"Version: {OPA_VERSION}" not in version:
        pytest.skip(f"the list is of OPA {OPA_VERSION}; this one is another")
    answer = subprocess.run(
        [opa, "capabilities", "--current"], capture_output=True, text=True, check=True
    )
    current = {each["name"]: each["decl"] for each in json.loads(answer.stdout)["builtins"]}
    assert set(current) == set(LISTED)
    for name, declared in current.items():
        assert len(declared.get("args", [])) == len(LISTED[name]["args"]), name


def test_page_is_current() -> None:
    """`docs/rego-builtins.md` is what the table says."""
    page = Path(__file__).parents[2] / "docs" / "rego-builtins.md"
    assert page.read_text("utf-8") == builtins_page()


@pytest.mark.parametrize("name", CALLABLE)
def test_loading_does_as_the_table_says(name: str) -> None:
    """A call is left, respelled or refused at its line."""
    builtin = BUILTINS[name]
    call = f"{name}({', '.join('input.x' for _ in builtin.arguments)})"
    found = errors(f"r := {call}")
    if builtin.kind is Kind.REFUSED:
        assert ("rego.builtin", 2) in found
    else:
        assert found == []
        is_respelled = builtin.kind is Kind.POLYFILL
        assert respelled(f"r := {call}").startswith(
            f"r := {function_name(name) if is_respelled else name}("
        )


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("r := 7 % 2", [("rego.builtin", 2)]),
        ("r := count(input.x, 1, 2)", [("rego.arguments", 2)]),
        ("r := count()", [("rego.arguments", 2)]),
        ("r if count(input.x, 2)", []),
        ("f(_) := 1\n\nr if { 1 == count(input.x) with count as f }", [("rego.mock", 4)]),
        ("f(_) := 1\nr if { g(1) with time.clock as f }", None),
        ("r := data.meshwarden_builtins.opa_count(1)", [("rego.reserved", 2)]),
        ("r := [x | some x in net.cidr_merge(input.x)]", [("rego.builtin", 2)]),
        ("r if\n  contains(input.a, input.b)", []),
    ],
)
def test_calls_are_checked(source: str, found: list[tuple[str, int]] | None) -> None:
    """Operators, numbers of arguments, mocks and the reserved package are judged at load."""
    assert errors(source) == found if found is not None else errors(source)


def test_reserved_package_is_refused() -> None:
    """No policy may add to the polyfills."""
    found = check_modules([module_of("x := 1", "meshwarden_builtins.more")])
    assert [each.code for each in found] == ["rego.reserved"]


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ('r := count("é") + count(input.x)', None),
        ('r if contains(input.x, "/")', 'r if contains(input.x, "/")'),
        ('s contains ("a") if true', 's contains ("a") if true'),
        ("r if\n  contains(input.a, input.b)", None),
        ("count(_) := 7\nr := count(input.x)", "count(_) := 7\nr := count(input.x)"),
        ("import data.q.count\nr := count(input.x)", "import data.q.count\nr := count(input.x)"),
        ('# count(1)\nr := "count(1)"', '# count(1)\nr := "count(1)"'),
    ],
)
def test_only_calls_are_respelled(source: str, given: str | None) -> None:
    """Comments, texts, heads, own rules and imports stay; every line stays where it was."""
    found = respelled(source)
    assert found.count("\n") == source.count("\n")
    for name in ("count", "contains"):
        if given is None and f"{name}(input" in source:
            assert f"{function_name(name)}(input" in found
    assert given is None or found == given


def test_rules_of_other_files_hide_builtins_too() -> None:
    """A function of the package in another file is called, not the polyfill."""
    modules = [module_of("r := count(input.x)"), module_of("count(_) := 7")]
    assert len(supply_polyfills(modules)) == len(modules)


def test_only_needed_polyfills_are_added() -> None:
    """A policy without such calls gets nothing; one with them what they need."""
    assert len(supply_polyfills([module_of("r := 1")])) == 1
    added = [file for file, _ in supply_polyfills([module_of("r := time.clock(input.x)")])[1:]]
    assert added == [f"meshwarden_builtins/{name}.rego" for name in ("numbers", "stop", "times")]
