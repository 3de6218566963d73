"""The rules by their codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from policies.lint.facts import Facts
from policies.lint.finding import Spot

LintRule = Callable[[Facts], Iterator[Spot]]
"""A rule: what it finds in the facts. It asks for nothing its catalogue entry does not declare."""

RULES: dict[str, LintRule] = {}
"""Every rule that was imported."""


def rule(code: str) -> Callable[[LintRule], LintRule]:
    """Return the decorator that enters a function as the rule of a code."""

    def enter(function: LintRule) -> LintRule:
        assert code not in RULES, f"two rules for {code}"
        RULES[code] = function
        return function

    return enter
