"""What came of one test, as plain values that may go from one process to another."""

from __future__ import annotations

from dataclasses import dataclass

from policies.diagnostic import Location


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not as expected."""

    what: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """A place in a policy that a failure has to do with, and what it did."""

    told: str
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer that was tested. `rule` decided, at `place`; both are None where none did."""

    effect: str
    status: int
    reason: str
    detail: str
    rule: str | None = None
    place: Location | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One test that ran: a case, a cell, or a Rego rule. It passed when nothing mismatches.

    `verdict` is None for a Rego rule and for what was skipped. `pointers` are near misses and,
    for Rego, the statements that went no further.
    """

    suite: str
    case: str
    location: Location
    verdict: Verdict | None = None
    mismatches: tuple[Mismatch, ...] = ()
    pointers: tuple[Pointer, ...] = ()
    seconds: float = 0.0
    skipped: str = ""

    @property
    def name(self) -> str:
        """`suite/case`, what `--run` looks at."""
        return f"{self.suite}/{self.case}"

    @property
    def passed(self) -> bool:
        """Whether everything expected held; what was skipped neither passed nor failed."""
        return not (self.mismatches or self.skipped)

    @property
    def failed(self) -> bool:
        """Whether something is not as expected."""
        return bool(self.mismatches)
