"""The rules about Rego: what OPA's own check says of the same modules, and what it does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.lint_sources import Given
from policies.lint.embedded import plain_text
from tests.lint.linting import lint
from tests.opa_bridge.opa_process import MISSING, opa_binary

HEAD = "package envoy.authz\n\nimport rego.v1\n\ndefault allow := false\n\n"
HTTP = "input.attributes.request.http"

# Body, the codes with line and column (counted from the first line of the body).
CASES = {
    "a circle of two": ("allow if p\n\np if q\n\nq if p\n", [("MW0902", 3, 1), ("MW0902", 5, 1)]),
    "a function of itself": ("allow if f(1)\n\nf(x) if f(x)\n", [("MW0902", 3, 1)]),
    "a circle by data": (
        "allow if data.envoy.authz.q\n\nq if data.envoy.authz.allow\n",
        [("MW0902", -1, 9), ("MW0902", 3, 1)],
    ),
    "a text and a number": ('allow if { 1 + "a" == 2 }\n', [("MW0902", 1, 16)]),
    "two texts": ('allow if "a" + "b" == "ab"\n', [("MW0902", 1, 10)]),
    "a wrong argument": ("allow if count(1) == 3\n", [("MW0902", 1, 16)]),
    "unbound": ("allow if nobody == 1\n", [("MW0902", 1, 10)]),
}
SOUND = {
    "a variable in the name of a rule": "allow if {\n  some p in [1]\n  p == 1\n}\n\np if allow\n",
    "a local in the name of a rule": ("allow if p\n\np if {\n  allow := 1\n  allow == 1\n}\n"),
    "a comprehension": (
        "allow if {\n  xs := [x | some x in input.parsed_path]\n  count(xs) > 0\n}\n"
    ),
    "other input": "allow if data.other.p with input as {}\n",
    "own headers": 'headers["X-Ext"] := "yes"\n\nallow if input.parsed_path[0] == "a"\n',
    "else": 'allow := true if input.parsed_path[0] == "a"\nelse := false\n',
    "a function": f'allow if ok({HTTP})\n\nok(r) if r.method == "GET"\n',
    "a set": (
        'allow if "a" in roles\n\nroles contains r if some r in input.meshwarden.claims.roles\n'
    ),
    "a kill switch": f'allow if {{\n  false\n  {HTTP}.method == "GET"\n}}\n',
}
OTHERS = {
    "object.get of a header": (
        f'allow if object.get({HTTP}.headers, "X-A", "") == "b"\n', [("MW0914", 1, 21)],
    ),
    "a header by a dot": (f'allow if {HTTP}.headers.Host == "b"\n', [("MW0914", 1, 10)]),
    "Kubernetes' input": ('allow if input.review.kind == "Pod"\n', [("MW0922", 1, 10)]),
    "an object that allows": (
        'result := {"allowed": true}\n\nallow if input.parsed_path[0] == "a"\n', [],
    ),
}  # fmt: skip


def _found(body: str) -> list[tuple[str, int, int]]:
    module = plain_text("m.rego", HEAD + body)
    above = HEAD.count("\n")
    return [
        (found.code, found.location.line - above, found.location.column)
        for found in lint([], given=Given(rego=(module,))).findings
    ]


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found(name: str) -> None:
    """A circle, a wrong type, a name without a value: on line and column."""
    body, expected = CASES[name]
    assert _found(body) == expected


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_module_is_left_alone(name: str) -> None:
    """What only looks like a fault is none."""
    assert _found(SOUND[name]) == []


@pytest.mark.parametrize("name", OTHERS)
def test_what_opa_does_not_say(name: str) -> None:
    """Findings that are about requests of Envoy, where OPA finds nothing."""
    body, expected = OTHERS[name]
    assert _found(body) == expected


def test_a_header_by_an_alias() -> None:
    """An import of a part of the input is followed to the header."""
    head = HEAD.replace("import rego.v1", f"import {HTTP} as asked")
    module = plain_text("m.rego", f'{head}allow if asked.headers["X-A"] == "b"\n')
    (found,) = lint([], given=Given(rego=(module,))).findings
    assert (found.code, found.location.column) == ("MW0914", 10)


@pytest.mark.opa
@pytest.mark.parametrize("name", [*CASES, *SOUND, *OTHERS])
def test_opa_says_the_same(name: str, tmp_path: Path) -> None:
    """OPA's check refuses what is found as MW0902, and takes the rest."""
    cases = {**{each: body for each, (body, _) in {**CASES, **OTHERS}.items()}, **SOUND}
    opa = opa_binary()
    if opa is None:
        pytest.skip(MISSING)
    path = tmp_path / "m.rego"
    path.write_text(HEAD + cases[name])
    done = subprocess.run([opa, "check", str(path)], capture_output=True, check=False)
    assert (done.returncode != 0) is (name in CASES)


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="abc(){}[]:=.,\"`'\\|\n #iflow input.x", max_size=60))
def test_no_text_ends_the_rules(body: str) -> None:
    """Whatever a module holds, there are findings or none, each with a place in it."""
    lines = (HEAD + body).count("\n") + 1
    for code, line, _ in _found(body):
        assert code
        assert line <= lines
