"""Runs the linter: what the loader finds, named by the catalogue, and what the rules find."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from policies.diagnostic import Diagnostic, Severity
from policies.lint import logic, overlap, peers, scope, tokens, values
from policies.lint.catalogue import entry_for, load_catalogue
from policies.lint.facts import Facts, resource_name
from policies.lint.finding import LintFinding, LintSeverity, Spot
from policies.lint.inventory import read_inventory
from policies.lint.registry import RULES
from policies.lint.suppression import read_suppressions, sift
from policies.load import Inspected, inspect_resources
from policies.mesh import Mesh
from policies.model import AuthorizationPolicy, Resource

RULE_FILES = (logic, overlap, peers, scope, tokens, values)
"""The files whose import enters the rules."""

# Other resources in the folder are what the rules learn from, and no fault; and whoever writes
# `targetRefs` means a gateway or a waypoint.
_LEFT_ALONE = frozenset({"not-a-policy", "target-refs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LintResult:
    """Findings in reading order; `suppressed` were accepted by their authors, with a reason."""

    findings: tuple[LintFinding, ...]
    suppressed: tuple[LintFinding, ...] = ()
    resources: int = 0


def lint_texts(texts: Sequence[tuple[str, str]], mesh: Mesh, today: date) -> LintResult:
    """Return every finding about `(file name, text)` pairs in a mesh."""
    inspected = inspect_resources(texts, mesh)
    facts = Facts(_sound(inspected), mesh, read_inventory(texts))
    findings = [*_of_loader(inspected.findings), *_of_rules(facts)]
    sifted = sift(findings, read_suppressions(inspected.resources, today))
    kept = [*sifted.kept, *(_named("MW0813", spot) for spot in sifted.faults)]
    return LintResult(
        findings=tuple(sorted(kept, key=lambda found: (found.location, found.code))),
        suppressed=sifted.suppressed,
        resources=len(inspected.resources),
    )


def _sound(inspected: Inspected) -> tuple[Resource, ...]:
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


def _of_rules(facts: Facts) -> Iterator[LintFinding]:
    for code, rule in sorted(RULES.items()):
        for spot in rule(facts):
            yield _named(code, spot)


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
    )
