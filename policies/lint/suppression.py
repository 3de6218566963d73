"""Findings an author has accepted: an annotation with the code, the reason and perhaps an end.

`meshwarden.io/lint-ignore: "MW0207: legacy path, TICKET-12, until 2027-01-31"`; several
are separated by `;`. It holds for its own resource only. In Rego it is a comment,
`# meshwarden:lint-ignore MW0912: reason`, and holds for its package.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from policies.diagnostic import Location, shown
from policies.lint.embedded import Embedded
from policies.lint.facts import resource_name
from policies.lint.finding import LintFinding, Spot
from policies.model import Resource

ANNOTATION = "meshwarden.io/lint-ignore"
"""Where suppressions are written."""
_PATH = f"metadata.annotations.{ANNOTATION}"
_COMMENT = re.compile(r"^[ \t]*#[ \t]*meshwarden:lint-ignore[ \t]+(.+)$", re.MULTILINE)
_PACKAGE = re.compile(r"^[ \t]*package[ \t]+([A-Za-z0-9_.]+)", re.MULTILINE | re.ASCII)
_FORM = re.compile(r"(MW\d{4})\s*(?::\s*(.*))?", re.ASCII | re.DOTALL)
_UNTIL = re.compile(r",?\s*until\s+(\d{4}-\d{2}-\d{2})$", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """One entry. `problem` says why it holds nothing back; mostly empty. `path` is its field."""

    code: str
    resource: str
    location: Location
    problem: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """The findings that stay, those held back, and what is wrong with the suppressions."""

    kept: tuple[LintFinding, ...]
    suppressed: tuple[LintFinding, ...]
    faults: tuple[Spot, ...]


def read_suppressions(resources: Iterable[Resource], today: date) -> tuple[Suppression, ...]:
    """Return every suppression that is written, the faulty ones with their problem."""
    return tuple(
        _read_one(entry.strip(), resource_name(resource), resource.metadata.location, today, _PATH)
        for resource in resources
        if ANNOTATION in resource.metadata.annotations
        for entry in resource.metadata.annotations[ANNOTATION].split(";")
        if entry.strip()
    )


def read_rego_suppressions(modules: Iterable[Embedded], today: date) -> tuple[Suppression, ...]:
    """Return every suppression in the comments of Rego modules."""
    found: list[Suppression] = []
    for module in modules:
        package = _PACKAGE.search(module.text)
        label = f"Rego/{package[1] if package else module.name}"
        for comment in _COMMENT.finditer(module.text):
            line = module.text.count("\n", 0, comment.start()) + 1
            place = module.place(line, comment.start(1) - comment.start() + 1)
            found.append(_read_one(comment[1].strip(), label, place, today))
    return tuple(found)


def _read_one(
    entry: str, resource: str, location: Location, today: date, path: str = ""
) -> Suppression:
    found = _FORM.fullmatch(entry)
    code, reason = (found[1], (found[2] or "").strip()) if found else ("", "")
    problem = ""
    until = _UNTIL.search(reason)
    if not found:
        problem = f"`{shown(entry)}` is not of the form `CODE: reason`"
    elif until:
        reason = reason[: until.start()].strip()
        problem = _expiry_problem(code, until[1], today)
    if found and not reason:
        problem = f"the suppression of {code} gives no reason"
    return Suppression(
        code=code,
        resource=resource,
        location=location,
        problem=problem,
        path=path,
    )


def _expiry_problem(code: str, text: str, today: date) -> str:
    try:
        expired = date.fromisoformat(text) < today
    except ValueError:
        return f"the suppression of {code} ends on `{text}`, which is no date"
    return f"the suppression of {code} expired on {text}" if expired else ""


def sift(findings: Iterable[LintFinding], suppressions: Sequence[Suppression]) -> Sifted:
    """Return the findings without those that a sound suppression covers."""
    sound = {(each.code, each.resource) for each in suppressions if not each.problem}
    kept: list[LintFinding] = []
    held: list[LintFinding] = []
    for found in findings:
        (held if (found.code, found.resource) in sound else kept).append(found)
    used = {(found.code, found.resource) for found in held}
    faults = [
        Spot(
            message=each.problem or f"the suppression of {each.code} holds nothing back",
            location=each.location,
            resource=each.resource,
            path=each.path,
        )
        for each in suppressions
        if each.problem or (each.code, each.resource) not in used
    ]
    return Sifted(kept=tuple(kept), suppressed=tuple(held), faults=tuple(faults))
