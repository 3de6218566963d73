"""`--fix`: what it writes, that it leaves all else alone, and what the policy then decides."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.commands.lint_mending import mended_texts
from authz.lint_judge import LintJudge
from authz.lint_sources import Given
from policies.decision import Effect
from policies.lint.catalogue import load_catalogue
from policies.lint.mending import MENDED
from policies.lint.scalars import Edit, edited, find_scalars
from policies.lint.witness import bare_request
from policies.load import read_resources
from policies.mesh import Mesh
from policies.request import Workload
from tests.lint.linting import example, lint

HEAD = """\
# Who may do what.
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy   # ours
metadata: {name: shop, namespace: shop}
spec:
  rules:
"""
RULE = """\
  - to:
    - operation:
        %s   # as agreed
"""
SOURCE = """\
  - from:
    - source:
        %s
"""


def _mended(text: str, mesh: Mesh | None = None) -> str:
    ((_, after),) = mended_texts([("p.yaml", text)], mesh or Mesh(), Given())
    return after


@pytest.mark.parametrize(
    ("frame", "before", "after"),
    [
        (RULE, 'methods: ["get", POST]', 'methods: ["GET", POST]'),
        (RULE, "methods: [get]", "methods: [GET]"),
        (RULE, "methods: ['get', \"pUt\"]", "methods: ['GET', \"PUT\"]"),
        (RULE, 'paths: ["admin/*"]', 'paths: ["/admin/*"]'),
        (RULE, "paths: [admin/*]", "paths: [/admin/*]"),
        (RULE, 'paths: ["/a/../b/*"]', 'paths: ["/b/*"]'),
        (RULE, "paths: [a/../b]", "paths: [/b]"),
        (RULE, 'hosts: ["https://shop.example/cart"]', 'hosts: ["shop.example"]'),
        (RULE, 'method: ["GET"]', 'methods: ["GET"]'),
        (RULE, 'Methods: ["get"]', 'methods: ["GET"]'),
        (SOURCE, "principals: [spiffe://td/ns/a/sa/b]", "principals: [td/ns/a/sa/b]"),
        (SOURCE, 'principals:\n        - "spiffe://td/ns/a/*"  # all of a',
         'principals:\n        - "td/ns/a/*"  # all of a'),
        (SOURCE, 'ipBlocks: ["10.0.0.5/8", "192.0.2.1"]', 'ipBlocks: ["10.0.0.0/8", "192.0.2.1"]'),
    ],
)  # fmt: skip
def test_what_is_written(frame: str, before: str, after: str) -> None:
    """The value is mended in its own quotes; comments, order and the rest stay as they were."""
    assert _mended(HEAD + frame % before) == HEAD + frame % after


@pytest.mark.parametrize(
    "line",
    [
        'paths: ["/admin*"]',
        'hosts: ["*example.com"]',
        'path: ["/a"]\n        paths: ["/b"]',
        'operations: ["GET"]',
        "paths:\n        - &p admin/x\n        - *p",
        'methods: ["ge\\\n          t"]',
        'ipBlocks: ["10.1.2.300"]',
    ],
)
def test_what_is_left_alone(line: str) -> None:
    """Where it is not plain what was meant, or the name is taken, nothing is written."""
    text = HEAD + RULE % line
    assert _mended(text) == text


@pytest.mark.parametrize("value", ['"yes"', '"On"', "'no'"])
def test_a_dry_run_becomes_a_boolean(value: str) -> None:
    """A word for yes or no becomes the one that Istio reads."""
    noted = f"metadata:\n  name: a\n  namespace: b\n  annotations: {{istio.io/dry-run: {value}}}\n"
    text = f"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n{noted}spec: {{}}\n"
    after = _mended(text)
    meant = "false" if "no" in value else "true"
    assert meant in after
    ((policy,)) = read_resources([("p.yaml", after)]).resources
    assert policy.dry_run is (meant == "true")


@pytest.mark.parametrize("code", sorted(MENDED))
def test_a_mended_example_is_clean(code: str) -> None:
    """What can be mended of `bad.yaml` is clean of the code, loads, and is mended once for all."""
    texts, mesh, more = example(code, "bad.yaml")
    once = mended_texts(list(texts), mesh, more)
    left = [found for found in lint(once, mesh, more).findings if found.code == code]
    before = [found for found in lint(texts, mesh, more).findings if found.code == code]
    # Of the examples, one holds a text that is no address at all, one a word that says nothing.
    assert len(left) == (1 if code in ("MW0107", "MW0806") else 0)
    assert len(left) < len(before) or code == "MW0806"
    assert mended_texts(once, mesh, more) == once
    assert load_catalogue()[code].mend


def test_no_other_code_has_a_mend() -> None:
    """The catalogue says of each code whether `--fix` does anything about it."""
    assert {code for code, entry in load_catalogue().items() if entry.mend} == MENDED


@pytest.mark.parametrize(
    ("line", "method", "path"),
    [('methods: ["delete"]', "DELETE", "/"), ('paths: ["admin/*"]', "GET", "/admin/x")],
)
def test_what_a_mend_decides(line: str, method: str, path: str) -> None:
    """A DENY that matched nothing refuses, once mended, what is written, and nothing else."""
    text = HEAD.replace("  rules:", "  action: DENY\n  rules:") + RULE % line
    asked = bare_request(Workload(namespace="shop"))
    judge = LintJudge()
    for each, expected in ((text, Effect.ALLOW), (_mended(text), Effect.DENY)):
        resources = read_resources([("p.yaml", each)]).resources
        matching = type(asked)(**{**_fields(asked), "method": method, "path": path})
        assert judge(resources, Mesh(), matching).effect is expected
        assert judge(resources, Mesh(), asked).effect is Effect.ALLOW


def _fields(request: object) -> dict[str, object]:
    return {name: getattr(request, name) for name in type(request).__dataclass_fields__}


def test_line_ends_and_marks_stay() -> None:
    """CRLF, a byte order mark and a missing last line end are left as they are."""
    text = "\ufeff" + (HEAD + RULE % 'methods: ["get"]').replace("\n", "\r\n").rstrip()
    assert _mended(text) == text.replace("get", "GET")


def test_what_is_suppressed_is_not_mended() -> None:
    """Whoever accepted a finding with a reason does not want it mended."""
    noted = HEAD.replace(
        "namespace: shop}",
        'namespace: shop, annotations: {meshwarden.io/lint-ignore: "MW0211: odd client"}}',
    )
    text = noted + RULE % 'methods: ["get"]'
    assert _mended(text) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(alphabet="ab/*.:{}%?#' \"\\é-_1@", min_size=1, max_size=8), max_size=4))
def test_an_edit_changes_one_text(values: list[str]) -> None:
    """Whatever the values and their quotes, an edit makes one of them the wanted text."""
    quoted = ["'" + value.replace("'", "''") + "'" for value in values]
    text = f"a: [{', '.join(quoted)}]\n"
    scalars = [scalar for scalar, _ in find_scalars(text).values()][1:]
    assert [scalar.text for scalar in scalars] == values
    for place, scalar in enumerate(scalars):
        after = edited(text, [Edit(scalar, 'it\'s "new"')])
        found = [each.text for each, _ in find_scalars(after).values()][1:]
        assert found == [*values[:place], 'it\'s "new"', *values[place + 1 :]]
