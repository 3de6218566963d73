"""Runs the linter: what the loader finds, named by the catalogue, and what the rules find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date

from policies.collection import collection_paused
from policies.diagnostic import Diagnostic, Severity
from policies.lint import (
    coverage,
    domains,
    keys,
    logic,
    overlap,
    peers,
    revision,
    scope,
    spelling,
    tokens,
    trial,
    unions,
    values,
)
from policies.lint.catalogue import entry_for, load_catalogue
from policies.lint.facts import Facts, Known, resource_name
from policies.lint.finding import LintFinding, LintSeverity, Spot
from policies.lint.registry import RULES
from policies.lint.suppression import read_rego_suppressions, read_suppressions, sift
from policies.load import Inspected, inspect_resources
from policies.model import AuthorizationPolicy, Resource

RULE_FILES = (coverage, domains, keys, logic, overlap, peers, revision, scope, spelling, tokens,
              trial, unions, values)  # fmt: skip
"""The files whose import enters the rules of this room; those about Rego are in another."""

# Other resources in the folder are what the rules learn from, and no fault; and whoever writes
# `targetRefs` means a gateway or a waypoint.
_LEFT_ALONE = frozenset({"not-a-policy", "target-refs"})

Step = Callable[[int, int], None]
"""Hears how many steps of how many are done."""


def _look_away(done: int, of: int) -> None:
    """Take no notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LintResult:
    """Findings in reading order; `suppressed` were accepted by their authors, with a reason.

    `refuted` counts the findings that the evaluator did not confirm.
    """

    findings: tuple[LintFinding, ...]
    suppressed: tuple[LintFinding, ...] = ()
    resources: int = 0
    refuted: int = 0


@dataclass(slots=True)
class _Confirmed:
    """Findings whose claims the evaluator confirmed; the others are counted."""

    facts: Facts
    findings: list[LintFinding] = field(default_factory=list)
    refuted: int = 0

    def take(self, code: str, spots: Iterable[Spot]) -> None:
        known = self.facts.known
        for spot in spots:
            if all(claim.is_confirmed(known.judge, known.mesh) for claim in spot.claims):
                self.findings.append(_named(code, spot))
            else:
                self.refuted += 1


def lint_texts(
    texts: Sequence[tuple[str, str]], known: Known, today: date, step: Step = _look_away
) -> LintResult:
    """Return every finding about `(file name, text)` pairs."""
    with collection_paused():
        inspected = inspect_resources(texts, known.mesh)
        facts = Facts(sound_resources(inspected), known)
        confirmed = _Confirmed(facts)
        steps = len(RULES) + 1
        for done, (code, rule) in enumerate(sorted(RULES.items()), 1):
            step(done, steps)
            confirmed.take(code, rule(facts))
    findings = [*_of_loader(inspected.findings), *confirmed.findings]
    suppressions = read_suppressions(inspected.resources, today)
    sifted = sift(findings, (*suppressions, *read_rego_suppressions(known.rego, today)))
    kept = [*sifted.kept, *(_named("MW0813", spot) for spot in sifted.faults)]
    step(steps, steps)
    return LintResult(
        findings=tuple(sorted(kept, key=lambda found: (found.location, found.code))),
        suppressed=sifted.suppressed,
        resources=len(inspected.resources) + len(known.rego),
        refuted=confirmed.refuted,
    )


def sound_resources(inspected: Inspected) -> tuple[Resource, ...]:
    """Return the resources that the rules may judge: a policy with an error means another thing.

    WHY the others stay: whoever asks whether there is a RequestAuthentication must see it.
    """
    faulty = {found.resource for found in inspected.findings if found.severity is Severity.ERROR}
    return tuple(
        each
        for each in inspected.resources
        if not isinstance(each, AuthorizationPolicy) or resource_name(each) not in faulty
    )


def _of_loader(findings: Iterable[Diagnostic]) -> Iterator[LintFinding]:
    for found in findings:
        if found.code in _LEFT_ALONE:
            continue
        entry = entry_for(found)
        # What has no number yet keeps the name that `policy validate` gives it.
        yield LintFinding(
            code=entry.code if entry else found.code,
            severity=entry.severity if entry else LintSeverity(found.severity),
            message=found.message,
            location=found.location,
            help=found.help or (entry.help if entry else ""),
            path=found.path,
            resource=found.resource,
        )


def _named(code: str, spot: Spot) -> LintFinding:
    entry = load_catalogue()[code]
    return LintFinding(
        code=code,
        severity=entry.severity,
        message=spot.message,
        location=spot.location,
        help=spot.help or entry.help,
        path=spot.path,
        resource=spot.resource,
        related=spot.related,
        witness=spot.claims[0] if spot.claims else None,
    )
