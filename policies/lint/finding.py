"""One finding of the linter: a Diagnostic that may also be for information, with relatives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from policies.diagnostic import Location
from policies.lint.claims import Claim


class LintSeverity(StrEnum):
    """How bad a finding is, worst first."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for an error, 2 for information."""
        return list(LintSeverity).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Related:
    """Another place that has part in a finding."""

    message: str
    location: Location


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """What a rule found, before the catalogue gives it code and severity.

    `path` is the field, `resource` is `kind/namespace/name`; empty `help` means the catalogue's.
    `claims` are what the evaluator must confirm before the spot is told.
    """

    message: str
    location: Location
    resource: str = ""
    path: str = ""
    help: str = ""
    related: tuple[Related, ...] = ()
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LintFinding:
    """A finding as it is reported; `witness` is a request that shows it, confirmed."""

    code: str
    severity: LintSeverity
    message: str
    location: Location
    help: str = ""
    path: str = ""
    resource: str = ""
    related: tuple[Related, ...] = ()
    witness: Claim | None = None

    @property
    def fingerprint(self) -> str:
        """What stays the same when lines are added above: code, resource, field and message."""
        return "|".join((self.code, self.resource, self.path, self.message))
