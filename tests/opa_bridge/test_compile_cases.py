"""What OPA does not compile does not load here either, and is told by its line."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from library_differential import answers_of
from opa_process import MISSING, opa_binary

from opa_bridge.capabilities import Module, check_modules, scan_module

CASES = yaml.safe_load(Path(__file__).with_name("compile_cases.yaml").read_text("utf-8"))


def source_of(case: dict[str, Any]) -> str:
    """Return a case's module."""
    return f"package p\n{case['rego']}\n"


@pytest.mark.parametrize("case", CASES, ids=[case["note"] for case in CASES])
def test_what_does_not_compile_does_not_load(case: dict[str, Any]) -> None:
    """A module is refused where the case says so, with what to do; any other loads."""
    module = scan_module("p.rego", source_of(case))
    assert isinstance(module, Module)
    found = check_modules([module])
    if "refused" in case:
        assert (case["refused"], case["line"]) in {(e.code, e.location.line) for e in found}
        assert all(each.help for each in found if "twice in an object" not in each.message)
    else:
        assert not found
        assert not isinstance(answers_of([("p.rego", source_of(case))], ["p/r"], {}, [{}]), str)


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
@pytest.mark.parametrize("case", CASES, ids=[case["note"] for case in CASES])
def test_cases_are_what_opa_compiles(case: dict[str, Any], tmp_path: Path) -> None:
    """The cases say of OPA what is so."""
    (tmp_path / "p.rego").write_text(source_of(case), "utf-8")
    command = [str(opa_binary()), "check", "p.rego"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
    is_refused = "refused" in case and case.get("opa") != "takes"
    assert is_refused == bool(done.returncode), done.stderr.decode()
