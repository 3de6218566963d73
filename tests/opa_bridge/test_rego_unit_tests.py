"""Rego unit tests: what passes, where a failure went no further, and that OPA says the same."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from opa_process import MISSING, opa_binary

from opa_bridge.rego_files import read_data_tree, read_tests_with_modules
from opa_bridge.rego_tests import RegoTests
from policies.diagnostic import LoadError

CORPUS = yaml.safe_load(Path(__file__).with_name("rego_unit_tests.yaml").read_text())


def write(folder: Path, modules: dict[str, str]) -> None:
    """Write modules by file name."""
    for name, source in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)


def results_of(modules: dict[str, str], **data: Any) -> dict[str, Any]:
    """The results by the name of the rule."""
    tests = RegoTests(list(modules.items()), data)
    return {each.test.rule: each for each in tests.run(tests.tests)}


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
def test_what_comes_of_each_test(case: dict[str, Any]) -> None:
    """A test passes when its rule is true, whatever it replaces on the way."""
    tests = RegoTests(list(case["modules"].items()), {})
    found = {test.rule: "todo" for test in tests.tests if test.is_todo}
    for each in tests.run([test for test in tests.tests if not test.is_todo]):
        found[each.test.rule] = "passed" if each.passed else "failed"

    assert case["results"] == found


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
def test_opa_says_the_same(case: dict[str, Any], tmp_path: Path) -> None:
    """`opa test` passes and fails the same tests."""
    write(tmp_path, case["modules"])
    command = [str(opa_binary()), "test", "--format", "json", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    told: dict[str, str] = {}
    for each in json.loads(ran.stdout):
        word = "todo" if each.get("skip") else "failed" if each.get("fail") else "passed"
        word = "failed" if each.get("error") else word
        told[each["name"]] = word

    assert case["results"] == told


def test_where_a_failure_went_no_further() -> None:
    """The statement of the test comes first, then those of the rules that it came to."""
    modules = {
        "p.rego": "package p\nimport rego.v1\nallow if {\n\tinput.a\n\tis_b\n}\nis_b if {\n"
        "\tinput.b == 1\n\tinput.c\n}\n",
        "p_test.rego": "package p_test\nimport rego.v1\ntest_it if {\n\ttrue\n"
        '\tdata.p.allow with input as {"a": 1, "b": 2}\n\tfalse\n}\n',
    }

    result = results_of(modules)["test_it"]

    assert not result.passed
    assert "undefined" == result.got
    assert ["p_test.rego:5", "p.rego:5", "p.rego:8"] == [str(place) for place in result.stops]


def test_a_test_that_does_not_end_is_stopped_and_the_others_run() -> None:
    """One evaluation without end is told as an error, and costs no other test its answer."""
    loop = "test_loop if {\n\tsome a in numbers.range(1, 3000)\n"
    loop += "".join(f"\tsome {name} in numbers.range(1, 3000)\n" for name in "bcd")
    modules = {
        "a_test.rego": f"package a\nimport rego.v1\n{loop}\ta + b + c + d < 0\n}}\n"
        "test_after := true\n"
    }
    tests = RegoTests(list(modules.items()), {}, query_seconds=1.0)

    found = {each.test.rule: each for each in tests.run(tests.tests)}

    assert (False, True) == (found["test_loop"].passed, found["test_after"].passed)
    assert "stopped" in found["test_loop"].error


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package a\nimport rego.v1\ntest_a if http.send({})\n", "`http.send` is not supported"),
        ("package a\nimport rego.v1\ntest_a if count([]) with count as 3\n", "cannot be replaced"),
        ("package meshwarden_test_run\n", "is reserved"),
        ('package a\ntest_a := "\n', "unclosed string"),
        ("no package\n", "no readable package clause"),
    ],
)
def test_modules_that_are_refused(source: str, message: str) -> None:
    """What the engine has not, or would take for ours, is said with its line."""
    with pytest.raises(LoadError, match=message):
        RegoTests([("a_test.rego", source)], {})


def test_modules_that_do_not_compile() -> None:
    """What only the compiler sees is told when the tests are run."""
    tests = RegoTests([("a_test.rego", "package a\nimport rego.v1\ntest_a if { := }\n")], {})

    with pytest.raises(LoadError, match=r"a_test\.rego"):
        list(tests.run(tests.tests))


def test_data_stand_under_their_folder(tmp_path: Path) -> None:
    """`a/data.yaml` is `data.a`, as OPA reads a folder; modules and tests come in name order."""
    write(
        tmp_path,
        {
            "data.json": '{"top": 1}',
            "a/data.yaml": "inner: [2]\n",
            "a/other.json": '{"not": "read"}',
            "a/p.rego": "package p\n",
            "a/p_test.rego": "package p\n",
            ".hidden/q.rego": "package q\n",
        },
    )

    assert {"top": 1, "a": {"inner": [2]}} == read_data_tree(tmp_path)
    names = [Path(file).name for file, _ in read_tests_with_modules(tmp_path)]
    assert ["p.rego", "p_test.rego"] == names


@pytest.mark.parametrize(
    "files",
    [
        {"data.json": '{"a": 1}', "a/data.json": '{"b": 2}'},
        {"data.json": '{"a": 1}', "data.yaml": "a: 2\n"},
        {"data.json": "[1]"},
        {"data.json": "{"},
    ],
)
def test_data_that_overlap_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    """No file silently wins over another."""
    write(tmp_path, files)

    with pytest.raises(LoadError, match=r"data\."):
        read_data_tree(tmp_path)
