"""Every code of the linter proves itself: a policy that has it, and its neighbour that has not."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from policies.lint.catalogue import load_catalogue, render_index, render_page
from policies.lint.facts import Facts
from policies.lint.inventory import read_inventory
from policies.lint.registry import RULES
from policies.lint.run import lint_texts
from policies.load import inspect_resources
from policies.mesh import Mesh
from policies.mesh_config import load_mesh

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "lint"
TODAY = date(2026, 11, 21)
CODES = list(load_catalogue())
_MARK = re.compile(r"# (MW\d{4})$")


def _mesh(code: str) -> Mesh:
    path = HERE / code / "mesh.yaml"
    return load_mesh(path.read_text(), "mesh.yaml") if path.exists() else Mesh()


def _text(code: str, name: str) -> str:
    return (HERE / code / name).read_text()


@pytest.mark.parametrize("code", CODES)
def test_bad_is_found_where_it_is_marked(code: str) -> None:
    """`bad.yaml` has exactly the findings that its comments mark, each on its line."""
    text = _text(code, "bad.yaml")
    expected = [
        (number, found[1])
        for number, line in enumerate(text.splitlines(), 1)
        if (found := _MARK.search(line))
    ]
    result = lint_texts([("bad.yaml", text)], _mesh(code), TODAY)
    actual = [(found.location.line, found.code) for found in result.findings]
    assert expected == actual
    assert {code} == {name for _, name in expected}


@pytest.mark.parametrize("code", CODES)
def test_good_is_silent(code: str) -> None:
    """`good.yaml`, the nearest correct neighbour, has no finding of any code."""
    result = lint_texts([("good.yaml", _text(code, "good.yaml"))], _mesh(code), TODAY)
    assert result.findings == ()
    assert result.resources


@pytest.mark.parametrize("code", CODES)
def test_a_finding_says_what_to_do(code: str) -> None:
    """Every finding has a message of one clause, a help, and its resource where it parses."""
    result = lint_texts([("bad.yaml", _text(code, "bad.yaml"))], _mesh(code), TODAY)
    for found in result.findings:
        assert found.help
        assert found.message
        assert not found.message.endswith(".")
        assert found.severity is load_catalogue()[code].severity
        assert found.resource or code == "MW0117"


@pytest.mark.parametrize("code", CODES)
def test_the_page_is_up_to_date(code: str) -> None:
    """The page in docs/lint is what `policy lint --explain CODE` prints."""
    page = render_page(load_catalogue()[code], _text(code, "bad.yaml"), _text(code, "good.yaml"))
    assert page == (DOCS / f"{code}.md").read_text()


@pytest.mark.parametrize("code", sorted(RULES))
def test_a_rule_reads_what_it_declares(code: str) -> None:
    """What a rule asked for on its two examples is what its catalogue entry declares."""
    read: set[str] = set()
    for name in ("bad.yaml", "good.yaml"):
        texts = [(name, _text(code, name))]
        facts = Facts(inspect_resources(texts).resources, _mesh(code), read_inventory(texts))
        list(RULES[code](facts))
        read |= facts.read
    assert load_catalogue()[code].inputs == read


def test_every_code_is_found_by_somebody() -> None:
    """A catalogue entry has a rule or a finding of the loader; every rule has an entry."""
    named = {code for code, entry in load_catalogue().items() if entry.loader}
    assert set(CODES) == named | set(RULES) | {"MW0813"}


def test_no_folder_without_an_entry() -> None:
    """Every folder of examples and every page belongs to a code."""
    folders = sorted(path.name for path in HERE.iterdir() if path.name.startswith("MW"))
    pages = sorted(path.stem for path in DOCS.glob("MW*.md"))
    assert (CODES, CODES) == (folders, pages)


def test_the_index_is_up_to_date() -> None:
    """docs/lint/README.md lists every code."""
    assert render_index() == (DOCS / "README.md").read_text()
