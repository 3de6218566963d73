"""What a test run came to, as one value that every report is written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from authz.policytest.run import CaseResult
from policies.diagnostic import Diagnostic, Location


class Trouble(StrEnum):
    """Why a test file could not be run."""

    TEST_FILE = "broken-test"
    POLICIES = "broken-policies"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenFile:
    """A test file that was not run, or not to its end."""

    file: Path
    trouble: Trouble
    diagnostics: tuple[Diagnostic, ...]

    @property
    def message(self) -> str:
        """What is wrong, in one clause."""
        what = "the policies under test do not load"
        return what if self.trouble is Trouble.POLICIES else "the test file cannot be used"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRun:
    """All that ran, and what could not. `was_cut`: a failure ended it early."""

    __test__ = False
    results: tuple[CaseResult, ...] = ()
    broken: tuple[BrokenFile, ...] = ()
    was_cut: bool = False

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """The cases that failed."""
        return tuple(each for each in self.results if not each.passed)


Report = Callable[[TestRun], str]
"""Writes a run as the text of one format, with a newline at its end."""


def told(result: CaseResult) -> str:
    """Return why a case failed: every mismatch, who decided, the near miss; a line each."""
    decision = result.outcome.decision
    lines = [
        f"{each.what}: expected {each.expected or 'none'}, got {each.got or 'none'}"
        for each in result.mismatches
    ]
    lines.append(f"{decision.detail} ({decision.reason})")
    if decision.rule is not None:
        lines.append(f"decided by {decision.rule.name} at {decision.rule.place}")
    if decision.near_miss:
        lines.append(f"near miss: {decision.near_miss}")
    return "\n".join(lines)


def json_document(run: TestRun) -> dict[str, Any]:
    """Return a run as a JSON document; `version` changes when a key changes its meaning."""
    return {
        "version": 1,
        "summary": {
            "passed": len(run.results) - len(run.failed),
            "failed": len(run.failed),
            "broken": len(run.broken),
            "complete": not run.was_cut,
        },
        "results": [_result(each) for each in run.results],
        "broken": [
            {
                "file": str(each.file),
                "trouble": str(each.trouble),
                "findings": [
                    {"code": found.code, "message": found.message, "help": found.help}
                    | _place(found.location)
                    for found in each.diagnostics
                ],
            }
            for each in run.broken
        ],
    }


def _result(result: CaseResult) -> dict[str, Any]:
    decision = result.outcome.decision
    return {
        "suite": result.suite,
        "case": result.case.name,
        "passed": result.passed,
        "seconds": round(result.seconds, 6),
        **_place(result.location),
        "decision": str(decision.effect),
        "status": decision.http_status,
        "reason": str(decision.reason),
        "rule": None if decision.rule is None else decision.rule.name,
        "rulePlace": None if decision.rule is None else decision.rule.place,
        "nearMiss": decision.near_miss,
        "mismatches": [
            {"what": each.what, "expected": each.expected, "got": each.got}
            for each in result.mismatches
        ],
    }


def _place(location: Location) -> dict[str, Any]:
    return {"file": location.file, "line": location.line, "column": location.column}
