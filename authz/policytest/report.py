"""What a test run came to, as one value that every report is written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from authz.policytest.result import CaseResult
from policies.diagnostic import Diagnostic, Location


class Trouble(StrEnum):
    """Why a test file could not be run."""

    TEST_FILE = "broken-test"
    POLICIES = "broken-policies"
    COVERAGE = "broken-coverage"


_SAID: Final = {
    Trouble.TEST_FILE: "the test file cannot be used",
    Trouble.POLICIES: "the policies under test do not load",
    Trouble.COVERAGE: "the coverage of its Rego cannot be measured",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenFile:
    """A test file that was not run, or not to its end."""

    file: Path
    trouble: Trouble
    diagnostics: tuple[Diagnostic, ...]

    @property
    def message(self) -> str:
        """What is wrong, in one clause."""
        return _SAID[self.trouble]


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
        return tuple(each for each in self.results if each.failed)

    @property
    def skipped(self) -> int:
        """How many cases were not run, and say so."""
        return sum(bool(each.skipped) for each in self.results)


Report = Callable[[TestRun], str]
"""Writes a run as the text of one format, with a newline at its end."""


def told(result: CaseResult) -> str:
    """Return why a case failed: every mismatch, who decided, near misses; a line each."""
    lines = [
        f"{each.what}: expected {each.expected or 'none'}, got {each.got or 'none'}"
        for each in result.mismatches
    ]
    verdict = result.verdict
    if verdict is not None:
        lines.append(f"{verdict.detail} ({verdict.reason})")
        if verdict.rule is not None:
            lines.append(f"decided by {verdict.rule} at {verdict.place}")
    for pointer in result.pointers:
        at = f" ({pointer.location})" if pointer.location.file else ""
        lines.append(f"{pointer.told}{at}")
    return "\n".join(lines)


def json_document(run: TestRun) -> dict[str, Any]:
    """Return a run as a JSON document; `version` changes when a key changes its meaning."""
    return {
        "version": 1,
        "summary": {
            "passed": len(run.results) - len(run.failed) - run.skipped,
            "failed": len(run.failed),
            "skipped": run.skipped,
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
    verdict = result.verdict
    return {
        "suite": result.suite,
        "case": result.case,
        "passed": result.passed,
        "skipped": result.skipped or None,
        "seconds": round(result.seconds, 6),
        **_place(result.location),
        "decision": None if verdict is None else verdict.effect,
        "status": None if verdict is None else verdict.status,
        "reason": None if verdict is None else verdict.reason,
        "detail": None if verdict is None else verdict.detail,
        "rule": None if verdict is None else verdict.rule,
        "rulePlace": None if verdict is None or verdict.place is None else str(verdict.place),
        "mismatches": [
            {"what": each.what, "expected": each.expected, "got": each.got}
            for each in result.mismatches
        ],
        "pointers": [{"text": each.told, **_place(each.location)} for each in result.pointers],
    }


def _place(location: Location) -> dict[str, Any]:
    return {"file": location.file, "line": location.line, "column": location.column}
