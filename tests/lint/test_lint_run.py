"""The frame of the linter: suppressions, the baseline, and what other tools get wrong."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.diagnostic import LoadError
from policies.lint.baseline import new_findings, parse_baseline, render_baseline
from policies.lint.finding import LintFinding
from policies.lint.run import LintResult
from policies.mesh import Mesh
from tests.lint.linting import lint

HEAD = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: shop
  namespace: shop
"""


def _policy(field: str, value: str, annotations: str = "") -> str:
    noted = f"  annotations:\n    {annotations}\n" if annotations else ""
    side = "to" if field in ("paths", "hosts", "methods") else "from"
    inner = "operation" if side == "to" else "source"
    return (
        f"{HEAD}{noted}spec:\n  rules:\n  - {side}:\n    - {inner}:\n        {field}: [{value}]\n"
    )


def _lint(*texts: str, mesh: Mesh | None = None) -> LintResult:
    return lint([(f"{index}.yaml", text) for index, text in enumerate(texts)], mesh)


def _codes(*texts: str) -> list[str]:
    return [found.code for found in _lint(*texts).findings]


@pytest.mark.parametrize(
    ("note", "codes", "says"),
    [
        ("MW0207: legacy", [], ""),
        ("MW0207: legacy, TICKET-12, until 2026-11-21", [], ""),
        ("MW0207: legacy; ", [], ""),
        ("MW0207: legacy, until 2026-11-20", ["MW0207", "MW0813"], "expired on 2026-11-20"),
        ("MW0207: legacy, until 2026-13-01", ["MW0207", "MW0813"], "no date"),
        ("MW0207", ["MW0207", "MW0813"], "no reason"),
        ("MW0207: until 2099-01-01", ["MW0207", "MW0813"], "no reason"),
        ("MW0214: another", ["MW0207", "MW0813"], "holds nothing back"),
        ("everything", ["MW0207", "MW0813"], "not of the form"),
    ],
)
def test_a_suppression_needs_a_reason_and_a_use(note: str, codes: list[str], says: str) -> None:
    """Only a suppression with a reason, not past its end and of use holds a finding back."""
    text = _policy("paths", '"/admin*"', f'meshwarden.io/lint-ignore: "{note}"')
    result = _lint(text)
    assert codes == sorted(found.code for found in result.findings)
    assert (not codes) is bool(result.suppressed)
    assert says in "".join(each.message for each in result.findings if each.code == "MW0813")


def test_a_suppression_holds_for_its_own_resource() -> None:
    """The same finding in another resource is told."""
    noted = _policy("paths", '"/admin*"', 'meshwarden.io/lint-ignore: "MW0207: legacy"')
    other = _policy("paths", '"/admin*"').replace("namespace: shop", "namespace: other")
    assert _codes(noted, other) == ["MW0207"]


def test_a_baseline_covers_what_moved_and_no_more() -> None:
    """Lines added above do not matter; a second finding of a kind is new."""
    known = parse_baseline(render_baseline(_lint(_policy("paths", '"/a*"')).findings), "b.json")
    moved = _lint("# a line\n" + _policy("paths", '"/a*"')).findings
    assert new_findings(moved, known) == ()
    grown = _lint(_policy("paths", '"/a*", "/b*"')).findings
    assert [found.message for found in new_findings(grown, known)] == ["`/b*` also matches `/bx`"]
    assert len(new_findings((*moved, *moved), known)) == 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", "7", '{"version": 2, "findings": {}}', "[" * 100_000,
     '{"version": 1, "findings": []}', '{"version": 1, "findings": {"a": "b"}}'],
)  # fmt: skip
def test_what_is_no_baseline_is_refused(text: str) -> None:
    """A file of another kind covers nothing and is an error, with the file's name."""
    with pytest.raises(LoadError, match=r"b\.json.*not a baseline"):
        parse_baseline(text, "b.json")


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_a_baseline_is_a_difference_of_bags(old: list[str], now: list[str]) -> None:
    """What is left is what there is now, less what there was then."""
    template = _lint(_policy("paths", '"/a*"')).findings[0]

    def findings(messages: list[str]) -> list[LintFinding]:
        return [
            LintFinding(
                code=template.code,
                severity=template.severity,
                message=message,
                location=template.location,
            )
            for message in messages
        ]

    known = parse_baseline(render_baseline(findings(old)), "b.json")
    left = Counter(found.message for found in new_findings(findings(now), known))
    assert Counter(now) - Counter(old) == left


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["paths", "hosts", "methods", "principals", "namespaces", "ipBlocks",
                     "requestPrincipals", "serviceAccounts", "trustDomains"]),
    st.text(min_size=0, max_size=12, alphabet="ab/*.:{}%?#$^[]()\\ \u00e9-_1@"),
)  # fmt: skip
def test_no_value_breaks_the_linter(field: str, value: str) -> None:
    """Whatever the value, there is a result, and each finding has a place and a message."""
    quoted = "'" + value.replace("'", "''") + "'"
    for found in _lint(_policy(field, quoted)).findings:
        assert found.message
        assert found.location.line


@pytest.mark.parametrize("text", ["", "[", "- 1", "a: b", "kind: Pod\nspec: 7", "kind: List",
                                  "kind: Deployment\nspec: {template: []}", "\x00"])  # fmt: skip
def test_no_text_breaks_the_linter(text: str) -> None:
    """Texts that are no policies are findings or nothing, and the others are still linted."""
    assert "MW0207" in _codes(text, _policy("paths", '"/admin*"'))


def test_an_error_in_one_policy_hides_nothing_of_another() -> None:
    """The rules run where the loader refuses a file, and do not judge what is left of it."""
    assert sorted(_codes(_policy("path", '"/a"'), _policy("paths", '"/a*"').replace(
        "name: shop", "name: other"))) == ["MW0101", "MW0207"]  # fmt: skip


def _rule(*lines: str) -> str:
    return HEAD + "spec:\n  rules:\n" + "".join(f"  {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("MW0302", ("- {}",)),
        ("MW0302", ("- to:", "  - operation: {hosts: ['*']}")),
        ("MW0302", ("- to:", "  - operation: {paths: ['/*'], methods: ['*']}")),
        ("MW0302", ("- to:", "  - operation: {methods: [GET]}", "  - operation: {paths: ['*']}")),
        ("", ("- to:", "  - operation: {hosts: ['*'], methods: [GET]}")),
        ("", ("- from:", "  - source: {principals: ['*']}")),
        ("MW0305", ("- from:", "  - source:", "      namespaces: [a]",
                    "      principals: [cluster.local/ns/b/sa/c]")),
        ("", ("- from:", "  - source:", "      namespaces: [a, b]",
              "      principals: [cluster.local/ns/b/sa/c]")),
        ("", ("- from:", "  - source:", "      namespaces: ['b*']",
              "      principals: [cluster.local/ns/b/sa/c]")),
        ("MW0305", ("- from:", "  - source:", "      ipBlocks: [10.1.0.0/16]",
                    "      notIpBlocks: [10.0.0.0/8]")),
        ("", ("- from:", "  - source:", "      ipBlocks: [10.0.0.0/8]",
              "      notIpBlocks: [10.1.0.0/16]")),
    ],
)  # fmt: skip
def test_what_comes_to_everything_or_nothing(code: str, lines: tuple[str, ...]) -> None:
    """A rule is known for what it comes to, however it is written; its neighbour is not."""
    codes = {found.code for found in _lint(_rule(*lines)).findings}
    assert codes & {"MW0302", "MW0305"} == ({code} if code else set())
