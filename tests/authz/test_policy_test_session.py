"""`policy test`: several processes, watching, and Rego unit tests in the same run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
import yaml
from commanding import resources, run_policy

from authz.policytest.watch import run_on_change, watched_paths

POLICY = Path(sys.executable).parent / "policy"
RULE = {"to": [{"operation": {"methods": ["GET"], "paths": ["/pay"]}}]}
SUITE: dict[str, Any] = {
    "apiVersion": "policy.test/v1",
    "kind": "PolicyTest",
    "metadata": {"name": "pay"},
    "policies": {"istio": ["../policies"]},
    "workloads": {"pay": {"namespace": "shop"}},
    "identities": {"web": {"spiffe": "spiffe://cluster.local/ns/shop/sa/web"}},
    "defaults": {"to": "pay", "from": "web"},
    "cases": [{"name": "reads", "request": {"path": "/pay"}, "expect": {"decision": "allow"}}],
}
MATRIX = {
    "name": "m",
    "method": ["GET", "POST"],
    "path": ["/pay", *(f"/{number}" for number in range(1100))],
    "allow": [{"method": "GET", "path": ["/pay", "/7"]}],
}
MODULE = "package shop\nimport rego.v1\nallow if {\n\tinput.method == data.method\n\tinput.ok\n}\n"
TESTS = """package shop_test
import rego.v1
test_yes if data.shop.allow with input as {"method": "GET", "ok": true}
test_no if not data.shop.allow with input as {"method": "PUT", "ok": true}
todo_test_later if false
"""
WRONG = TESTS + 'test_wrong if data.shop.allow with input as {"method": "GET", "ok": false}\n'
SECONDS = 60


@pytest.fixture
def tree(folder: Path) -> Path:
    """Policies, a suite in a folder beside them, and Rego with its tests."""
    write(folder / "policies" / "p.yaml", resources([{"name": "a", "spec": {"rules": [RULE]}}]))
    write(folder / "tests" / "a.policytest.yaml", yaml.safe_dump(SUITE, sort_keys=False))
    write(folder / "rego" / "shop.rego", MODULE)
    write(folder / "rego" / "shop_test.rego", TESTS)
    write(folder / "rego" / "data.json", '{"method": "GET"}')
    return folder


def write(path: Path, text: str) -> None:
    """Write a file, its folders too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def names_in(report: Path) -> list[tuple[str, str, bool]]:
    """Suite, case and whether it passed, in the order of the report."""
    found = json.loads(report.read_text())["results"]
    return [(each["suite"], each["case"], each["passed"]) for each in found]


def test_processes_change_nothing_but_the_time(tree: Path) -> None:
    """Results come in the same order, however many processes share a file of many cells."""
    write(tree / "tests" / "b.policytest.yaml", yaml.safe_dump({**SUITE, "matrices": [MATRIX]}))

    alone = run_policy("test", "--format", "json=1.json")
    shared = run_policy("test", "--format", "json=2.json", "--jobs", "3")

    assert (1, 1) == (alone.exit_code, shared.exit_code)
    assert names_in(Path("1.json")) == names_in(Path("2.json"))
    assert 2 + 2 * 1101 + 3 == len(names_in(Path("2.json")))
    assert 1 == sum(not passed for *_, passed in names_in(Path("1.json"))) - 1


def test_fail_fast_ends_the_processes(tree: Path) -> None:
    """Nothing is told behind the first failure, whichever process was at what."""
    cases = [{**SUITE["cases"][0], "request": {"path": "/no"}}, *SUITE["cases"]]
    for name in "bcd":
        path = tree / "tests" / f"{name}.policytest.yaml"
        write(path, yaml.safe_dump({**SUITE, "metadata": {"name": name}, "cases": cases}))

    result = run_policy("test", "--fail-fast", "--jobs", "2", "--format", "json=r.json")

    assert 1 == result.exit_code
    assert [("pay", "reads", True), ("b", "reads", False)] == names_in(Path("r.json"))
    assert not json.loads(Path("r.json").read_text())["summary"]["complete"]


def test_rego_tests_run_beside_the_cases(tree: Path) -> None:
    """They are named by package and rule, skipped when they are to do, and counted with all."""
    result = run_policy("test")

    assert 0 == result.exit_code, result.output
    assert "3 passed, 0 failed, 1 skipped" in result.stdout
    assert "- todo_test_later  skipped: todo" in result.stdout
    listed = run_policy("test", "--list", "--run", "shop_test").stdout.splitlines()
    assert ["rego/shop_test.rego:3\tshop_test/test_yes", "rego/shop_test.rego:4\tshop_test/test_no",
            "rego/shop_test.rego:5\tshop_test/todo_test_later"] == listed  # fmt: skip
    assert "1 passed, 0 failed" in run_policy("test", "--run", "test_yes").stdout
    assert tree.is_dir()


def test_a_rego_test_that_fails_shows_where(tree: Path) -> None:
    """The statements that went no further are quoted with their places."""
    write(tree / "rego" / "shop_test.rego", WRONG)

    result = run_policy("test", "rego")

    assert 1 == result.exit_code
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert "rule: expected true, got undefined" in lines
    place = lines.index("at rego/shop_test.rego:6")
    assert lines[place - 1] == "went no further than this"
    assert lines[place + 1].endswith('with input as {"method": "GET", "ok": false}')
    assert "5 │     input.ok" in lines[lines.index("at rego/shop.rego:5") + 1]


@pytest.mark.parametrize(
    ("name", "source", "code"),
    [
        ("shop.rego", "package shop\nallow := \n", 3),
        ("shop.rego", "package shop\nimport rego.v1\nallow if http.send({})\n", 3),
        ("shop_test.rego", "package shop_test\nimport rego.v1\ntest_a if count(1, 2, 3)\n", 2),
        ("data.json", "[]", 3),
    ],
)
def test_broken_rego_has_the_codes_of_broken_policies(
    name: str, source: str, code: int, tree: Path
) -> None:
    """A module that does not load is 3, a test file 2; the cases still run."""
    write(tree / "rego" / name, source)

    result = run_policy("test")

    assert code == result.exit_code, result.output
    assert "✓ reads" in result.stdout
    assert f"rego/{name}" in result.stderr


def test_each_policy_is_tested_with_its_own_modules(tree: Path) -> None:
    """Two folders that define one package do not meet; tests beside the policy find it."""
    write(tree / "other" / "shop.rego", MODULE.replace("input.ok", "not input.ok"))
    write(tree / "other" / "tests" / "shop_test.rego", WRONG.replace('"ok": true', '"ok": false'))
    write(tree / "other" / "data.json", '{"method": "GET"}')

    found = run_policy("test", "--format", "json=r.json", "--run", "shop_test")

    assert 0 == found.exit_code, found.output
    assert 7 == len(names_in(Path("r.json")))
    alone = run_policy("test", "rego/shop_test.rego", "--format", "json=r.json")
    assert (0, 3) == (alone.exit_code, len(names_in(Path("r.json"))))


def test_rego_tests_come_to_lines(tree: Path) -> None:
    """Coverage counts what unit tests came to in the modules, and nothing in the tests."""
    result = run_policy("test", "rego", "--coverage=json=c.json")

    assert 0 == result.exit_code, result.output
    [found] = json.loads(Path("c.json").read_text())["files"]
    assert "rego/shop.rego" == found["file"]
    assert [(3, True), (4, True), (5, True)] == [
        (item["line"], item["count"] > 0) for item in found["items"]
    ]
    assert tree.is_dir()


def test_what_is_watched(tree: Path) -> None:
    """Beside the paths it is all that the test files name, wherever it lies."""
    found = {path.resolve() for path in watched_paths([tree / "tests"])}

    assert {tree / "tests", tree / "policies"} == found
    write(tree / "tests" / "a.policytest.yaml", "kind: nothing")
    assert [tree / "tests"] == watched_paths([tree / "tests"])


def test_a_change_during_a_run_is_not_lost(tmp_path: Path) -> None:
    """What is edited while tests run makes them run again."""
    file, stop, seen = tmp_path / "f", threading.Event(), []
    file.write_text("0")

    def run() -> None:
        seen.append(file.read_text())
        if len(seen) < 4:
            file.write_text(file.read_text() + "x")
        else:
            stop.set()

    watcher = threading.Thread(target=run_on_change, args=(run, lambda: [tmp_path], stop, 0.01))
    watcher.start()
    watcher.join(SECONDS)

    assert ["0", "0x", "0xx", "0xxx"] == seen


@pytest.fixture
def watching(tree: Path) -> Iterator[tuple[subprocess.Popen[str], Queue[str]]]:
    """A real `policy test --watch`, and the lines of what it prints."""
    process = subprocess.Popen(
        [str(POLICY), "test", "--watch", "tests"],
        cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines: Queue[str] = Queue()
    assert process.stdout is not None
    output = process.stdout
    reader = threading.Thread(target=lambda: [lines.put(line.rstrip()) for line in output])
    reader.start()
    yield process, lines
    process.kill()
    process.wait()
    reader.join()
    output.close()


def until(lines: Queue[str], wanted: str) -> list[str]:
    """The lines up to the one that begins so."""
    found = [lines.get(timeout=SECONDS)]
    while not found[-1].startswith(wanted):
        found.append(lines.get(timeout=SECONDS))
    return found


def test_an_edit_runs_the_tests_again(
    tree: Path, watching: tuple[subprocess.Popen[str], Queue[str]]
) -> None:
    """A policy is broken, and mended, by hand; Ctrl-C ends with a code of its own."""
    process, lines = watching
    assert "1 passed, 0 failed" in until(lines, "waiting")

    policy = tree / "policies" / "p.yaml"
    good = policy.read_text()
    policy.write_text(good.replace("/pay", "/elsewhere"))
    assert "0 passed, 1 failed" in until(lines, "waiting")
    policy.write_text("spec: [")
    assert any("do not load" in line for line in until(lines, "waiting"))
    policy.write_text(good)
    assert "1 passed, 0 failed" in until(lines, "waiting")

    process.send_signal(signal.SIGINT)
    assert 130 == process.wait(SECONDS)
