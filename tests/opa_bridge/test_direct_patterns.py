"""Patterns that are matched in process match what they match in OPA."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opa_process import MISSING, opa_binary

from opa_bridge.direct.patterns import matches_glob, matches_regex
from opa_bridge.direct.values import UNDEFINED, Inexact

CALLS = 50_000 if os.environ.get("MESHWARDEN_LONG") else 4_000
REGEX_PARTS = (
    *("a", "b", "A", "1", "_", "/", ".", "-", " ", r"\.", r"\d", r"\w", r"\s", r"\b", r"\D", r"\W"),
    *(".*", ".+", "[a-c]", "[^/]", "[^a]+", "[0-9]*", "[A-Z_]", "(a|b)", "(?:ab)?", "(", "|", ")"),
    *("^", "$", "*", "+", "?", "{2}", "{1,3}", "(?i)", "[", r"\\", "ab", r"\A", r"\z", "*?", "++"),
    *("[[:alpha:]]", r"\S", r"\/", r"\-", "é", r"\pL", "(?P<n>a)", r"\Q", "{", r"\{", "[a-", "]"),
)
GLOB_PARTS = ("a", "b", "/", ".", "*", "**", "ab", "-", "api", ":", "[a]", "?", "{a,b}", "\\", "é")
TEXT_PARTS = ("a", "b", "A", "1", "_", "/", ".", "-", " ", "é", "\n", "ab", "api", "\u212a", "\\")


def some_of(rng: random.Random, parts: tuple[str, ...], most: int) -> str:
    """Return a few parts in a row."""
    return "".join(rng.choice(parts) for _ in range(rng.randrange(most)))


def regex_call(rng: random.Random) -> list[Any]:
    """Return a pattern and a text."""
    pattern = some_of(rng, REGEX_PARTS, 7)
    return [f"^{pattern}$" if rng.random() < 0.3 else pattern, some_of(rng, TEXT_PARTS, 8)]


def glob_call(rng: random.Random) -> list[Any]:
    """Return a glob, its delimiters and a text, which often is of its form."""
    parts = GLOB_PARTS[:-5] if rng.random() < 0.9 else GLOB_PARTS
    pattern = some_of(rng, parts, 7)
    text = some_of(rng, TEXT_PARTS, 8)
    if rng.random() < 0.5:
        text = re.sub(r"\*\*?", lambda _: some_of(rng, ("a", "/", ".", "b"), 3), pattern)
    delimiters = rng.choice([[], ["/"], ["."], ["/", "."], None, ["a"], [":"], ["é"], ["]", "^"]])
    return [pattern, delimiters, text]


def opa_answers(name: str, calls: list[list[Any]], folder: Path) -> list[str]:
    """Return what OPA says to each call."""
    arguments = ", ".join(f"c[{place}]" for place in range(len(calls[0])))
    (folder / "t.rego").write_text(
        f"""package t
said(c) := "yes" if {name}({arguments})
else := "no" if {name}({arguments}) == false
else := "undefined"
r := [said(c) | some c in input.calls]
""",
        "utf-8",
    )
    (folder / "input.json").write_text(json.dumps({"calls": calls}), "utf-8")
    command = [str(opa_binary()), "eval", "--format=json", "--data", str(folder / "t.rego")]
    command += ["--input", str(folder / "input.json"), "data.t.r"]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return list(told["result"][0]["expressions"][0]["value"])


@pytest.mark.opa
@pytest.mark.skipif(opa_binary() is None, reason=MISSING)
@pytest.mark.parametrize(
    ("name", "make", "match"),
    [("regex.match", regex_call, matches_regex), ("glob.match", glob_call, matches_glob)],
)
def test_patterns_match_as_in_opa(
    name: str,
    make: Callable[[random.Random], list[Any]],
    match: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """Whatever is answered here is answered so by OPA; what is not sure is left to the library."""
    rng = random.Random(f"patterns {CALLS}")
    calls = [make(rng) for _ in range(CALLS)]
    known = 0
    for call, wanted in zip(calls, opa_answers(name, calls, tmp_path), strict=True):
        try:
            found = match(*call)
        except Inexact:
            continue
        known += 1
        assert ({True: "yes", False: "no"}.get(found), call) == (wanted, call)
    assert known > CALLS // 3


@pytest.mark.parametrize(
    "pattern",
    [r"\pL", "(?P<n>a)", r"\Qa", "(?s).", "é", "a" * 257, "a{1000}", "(a{2}){2}{2}", "(", "a{2"],
)
def test_regexes_of_other_forms_are_left(pattern: str) -> None:
    """A form on which two engines may differ, or that may be large, is for the library."""
    with pytest.raises(Inexact):
        matches_regex(pattern, "a")


@pytest.mark.parametrize(
    ("pattern", "delimiters"),
    [("[a]", []), ("a?", []), ("{a,b}", []), ("\\*", []), ("***", []), ("é", []), ("a" * 257, []),
     ("a", ["ab"]), ("a", [1]), ("a", "/"), ("a", [""])],
)  # fmt: skip
def test_globs_of_other_forms_are_left(pattern: str, delimiters: Any) -> None:
    """So are globs that are more than texts and stars, and delimiters that are no characters."""
    with pytest.raises(Inexact):
        matches_glob(pattern, delimiters, "a")


def test_what_is_no_text_is_undefined() -> None:
    """A pattern or a text of another type is a built-in's error."""
    assert matches_regex(1, "a") is UNDEFINED
    assert matches_regex("a", None) is UNDEFINED
    assert matches_glob("a", [], 1) is UNDEFINED


def test_patterns_take_linear_time() -> None:
    """A pattern on which backtracking would not end is matched at once."""
    assert matches_regex("(a*)*b", "a" * 100_000) is False
    assert matches_glob("*a" * 100, None, "a" * 10_000 + "b") is False
