"""Files that nobody writes in his right mind: there is a result, and no place is wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from policies.lint.catalogue import load_catalogue
from policies.lint.finding import LintFinding
from tests.lint.linting import Texts, example, lint, lint_text

CODES = list(load_catalogue())
# Their texts count lines themselves, or are about the text as a whole.
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: shop, namespace: shop}
spec:
  rules:
  - from:
    - source:
        principals: ["cluster.local/ns/web/sa/front"]
    to:
    - operation:
        paths: [%s]
"""
BYTE_ORDER_MARK = "\ufeff"
ABOVE = "# line\n" * 500 + "apiVersion: v1\nkind: Service\nmetadata: {name: x}\n---\n"


def _places(findings: tuple[LintFinding, ...], down: int = 0) -> list[tuple[int, int, str]]:
    return [(found.location.line - down, found.location.column, found.code) for found in findings]


@cache
def _plain(code: str) -> tuple[LintFinding, ...]:
    return lint(*example(code, "bad.yaml")).findings


def _changed(texts: Texts, change: Callable[[str], str]) -> Texts:
    return [(name, change(text)) for name, text in texts]


@pytest.mark.parametrize(
    ("change", "down"),
    [
        (lambda text: text.replace("\n", "\r\n"), 0),
        (lambda text: BYTE_ORDER_MARK + text, 0),
        (lambda text: ABOVE + text, ABOVE.count("\n")),
        (lambda text: "---\n" + text + "...\n", 1),
        (lambda text: text.rstrip("\n"), 0),
    ],
    ids=["crlf", "byte order mark", "far below", "document marks", "no line end"],
)
@pytest.mark.parametrize("code", CODES)
def test_places_stay_right(code: str, change: Callable[[str], str], down: int) -> None:
    """Line ends, a byte order mark, what stands above: the same findings at the same places."""
    texts, mesh, given = example(code, "bad.yaml")
    moved = lint(_changed(texts, change), mesh, given).findings
    assert _places(_plain(code)) == _places(moved, down)


@pytest.mark.parametrize(
    ("values", "column"),
    [
        ('"/äöü", "/admin*"', 25),
        ('"/\U0001f600", "/admin*"', 23),
        ("'/it''s', \"/admin*\"", 27),
        ('"/\\u00e4", "/admin*"', 28),
        ("/a,\t/admin*", 21),
    ],
)
def test_columns_count_characters(values: str, column: int) -> None:
    """A column is a number of characters, whatever stands before and however it is written."""
    found = [each for each in lint_text(POLICY % values).findings if each.code == "MW0207"]
    assert [(each.location.line, each.location.column) for each in found] == [(11, column)]


def test_an_alias_is_found_where_its_anchor_stands() -> None:
    """A value that is used twice is mended once, where it is written."""
    text = POLICY % '&p "/admin*"' + "  - to:\n    - operation: {paths: [*p], methods: [GET]}\n"
    found = [each for each in lint_text(text).findings if each.code == "MW0207"]
    assert {each.location.line for each in found} == {11}
    assert found


@pytest.mark.parametrize(
    "text",
    [
        POLICY % '"/a"' + "<<: *x\n",
        "base: &b {a: 1}\nspec:\n  <<: *b\n",
        "\tspec: 1\n",
        POLICY.replace("  rules", "\trules") % '"/a"',
        "a: &a [*a]\n",
        "a: &a [1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n",
        "[" * 5000,
        "{" * 5000,
        "? [complex]\n: key\n",
        "!!python/object/apply:os.system ['x']\n",
        "--- |\n text\n--- >\n text\n",
        "kind: ConfigMap\ndata: {a.rego: '', b.rego: 7, c.rego: [1]}\n",
        "kind: ConfigMap\ndata:\n  meshwarden.yaml: |\n    providers: 7\n  ca.yaml: '['\n",
        "kind: ConfigMap\ndata:\n  meshwarden.yaml: |\n    providers: [{rego: 7}, 8, {}]\n",
        'kind: ConfigMap\ndata: {p.rego: "package a\\nallow := \\u0000"}\n',
        "kind: Deployment\nspec: {template: {metadata: {labels: [1]}, spec: 7}}\n",
        "kind: List\nitems: [7, [], {kind: Pod}, {kind: Deployment, metadata: 7}]\n",
        "\u2028kind: x\n",
        "kind: ConfigMap\ndata:\n  p.rego: |\n\n\n\n",
    ],
)
def test_no_text_ends_the_linter(text: str) -> None:
    """Whatever a file holds, the policies beside it are linted, and places lie in the file."""
    result = lint([("odd.yaml", text), ("p.yaml", POLICY % '"/admin*"')])
    assert ("p.yaml", "MW0207") in {(each.location.file, each.code) for each in result.findings}
    for found in result.findings:
        assert found.location.line <= text.count("\n") + text.count("\u2028") + 20
        assert found.message.isprintable()


def test_ten_thousand_values() -> None:
    """A list of 10,000 values has its one fault found, at its own place."""
    values = ", ".join(f'"/part{number}"' for number in range(10_000))
    text = POLICY % f'{values}, "/admin*"'
    found = [each for each in lint_text(text).findings if each.code == "MW0207"]
    assert [each.location.column for each in found] == [17 + len(values) + 2]


def test_five_hundred_rules_that_shadow_each_other() -> None:
    """The widest rule is left alone, and each of the others told once."""
    rules = "".join(
        f'  - to:\n    - operation: {{paths: ["/a/{"b/" * depth}*"]}}\n' for depth in range(500)
    )
    head = POLICY.partition("  rules:\n")[0]
    findings = lint_text(f"{head}  rules:\n{rules}").findings
    told = [each.location.line for each in findings if each.code == "MW0308"]
    assert len(told) == len(set(told)) == 499
