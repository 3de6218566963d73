"""Every code of the linter proves itself: a policy that has it, and its neighbour that has not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policies.lint.catalogue import load_catalogue
from policies.lint.facts import Facts
from policies.lint.registry import RULES
from policies.load import inspect_resources
from tests.lint.linting import example, known_of, lint
from tests.lint.write_pages import PAGES, render_pages

HERE = Path(__file__).parent
CODES = list(load_catalogue())
FIRST_RELEASE = """
    0101 0102 0103 0104 0107 0112 0113 0115 0117 0201 0202 0204 0206 0207 0209 0211 0213 0214
    0218 0219 0301 0302 0304 0305 0308 0309 0311 0313 0314 0317 0318 0401 0402 0403 0404 0501
    0502 0503 0504 0507 0508 0511 0601 0602 0604 0606 0607 0609 0610 0612 0701 0702 0703 0704
    0705 0708 0709 0801 0804 0805 0806 0807 0808 0813 0901 0902 0903 0904 0905 0906 0909 0912
    0913 0914 0922
"""
_MARK = re.compile(r"# (MW\d{4}):(\d+)$")


def _text(code: str, name: str) -> str:
    return (HERE / code / name).read_text()


@pytest.mark.parametrize("code", CODES)
def test_bad_is_found_where_it_is_marked(code: str) -> None:
    """`bad.yaml` has exactly the findings that its comments mark, on line and column."""
    expected = [
        (number, int(found[2]), found[1])
        for number, line in enumerate(_text(code, "bad.yaml").splitlines(), 1)
        if (found := _MARK.search(line))
    ]
    result = lint(*example(code, "bad.yaml"))
    actual = [(found.location.line, found.location.column, found.code) for found in result.findings]
    assert expected == actual
    assert {code} == {name for _, _, name in expected}
    assert not result.refuted


@pytest.mark.parametrize("code", CODES)
def test_good_is_silent(code: str) -> None:
    """`good.yaml`, the nearest correct neighbour, has no finding of any code."""
    result = lint(*example(code, "good.yaml"))
    assert result.findings == ()
    assert result.resources


@pytest.mark.parametrize("code", CODES)
def test_a_finding_says_what_to_do(code: str) -> None:
    """Every finding has a message of one clause, a help, and its resource where it parses."""
    for found in lint(*example(code, "bad.yaml")).findings:
        assert found.help
        assert found.message
        assert not found.message.endswith(".")
        assert found.severity is load_catalogue()[code].severity
        assert found.resource or code == "MW0117"


@pytest.mark.parametrize("code", [code for code in CODES if "E" in load_catalogue()[code].inputs])
def test_a_semantic_finding_has_a_witness(code: str) -> None:
    """A rule that asks the evaluator tells the request that shows what it says."""
    for found in lint(*example(code, "bad.yaml")).findings:
        assert found.witness is not None
        assert found.witness.request.workload is not None


@pytest.mark.parametrize("code", sorted(RULES))
def test_a_rule_reads_what_it_declares(code: str) -> None:
    """What a rule asked for on its two examples is what its catalogue entry declares."""
    read: set[str] = set()
    for name in ("bad.yaml", "good.yaml"):
        texts, mesh, given = example(code, name)
        facts = Facts(inspect_resources(texts).resources, known_of(texts, mesh, given))
        list(RULES[code](facts))
        read |= facts.read
    assert load_catalogue()[code].inputs == read


def test_every_code_is_found_by_somebody() -> None:
    """A catalogue entry has a rule or a finding of the loader; every rule has an entry."""
    named = {code for code, entry in load_catalogue().items() if entry.loader}
    assert set(CODES) == named | set(RULES) | {"MW0813"}


def test_no_folder_without_an_entry() -> None:
    """Every folder of examples belongs to a code."""
    folders = sorted(path.name for path in HERE.iterdir() if path.name.startswith("MW"))
    assert folders == CODES


def test_the_pages_are_current() -> None:
    """docs/lint is what `make pages` writes: one page a code and the list of all."""
    written = {path.name: path.read_text() for path in PAGES.iterdir()}
    assert render_pages() == written


def test_every_first_release_code_stands() -> None:
    """The 75 codes of the first release are all there."""
    first = FIRST_RELEASE.split()
    assert len(first) == 75
    assert {f"MW{code}" for code in first} <= set(CODES)
