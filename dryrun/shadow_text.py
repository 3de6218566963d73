"""The report on dry-run policies as text for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from dryrun.shadow_report import PolicyShadow
from dryrun.text import aligned, one_line, plural

_SHOWN: Final = 20
_SHORT_HOURS: Final = 48
_COLUMNS: Final = (
    "requests", "would", "source", "destination", "method", "path", "sample",
)  # fmt: skip
_WORDS: Final = {"would_deny": "be denied", "would_allow": "be allowed"}


def as_text(shadows: Sequence[PolicyShadow]) -> str:
    """Return the report for a terminal: the verdict of each policy first, then why."""
    if not shadows:
        return "no dry-run policy is in the record\n"
    return "\n".join("\n".join(_policy(each)) + "\n" for each in shadows)


def as_json(shadows: Sequence[PolicyShadow]) -> str:
    """Return the report as one JSON object."""
    return json.dumps({"policies": [_document(each) for each in shadows]}, indent=2) + "\n"


FORMATS: Final[Mapping[str, Callable[[Sequence[PolicyShadow]], str]]] = MappingProxyType(
    {"table": as_text, "json": as_json}
)
"""What `--format` may say."""


def _policy(shadow: PolicyShadow) -> Iterator[str]:
    action = f" ({shadow.action})" if shadow.action else ""
    yield f"{one_line(shadow.policy)}{action}: {shadow.verdict}"
    yield f"  in the record for {_span(shadow.hours)}, from {shadow.first} to {shadow.last}"
    yield (
        f"  {plural(shadow.seen, 'request')} shadowed, {shadow.exercised} exercised it: "
        + ", ".join(f"{count} {outcome}" for outcome, count in sorted(shadow.outcomes.items()))
    )
    if shadow.silent_rules:
        listed = ", ".join(f"#{number}" for number in shadow.silent_rules)
        yield f"  of {plural(shadow.rules, 'rule')}, never fired: {listed}"
    for why, count in shadow.errors.most_common(_SHOWN):
        yield f"  {plural(count, 'error')}: {one_line(why)}"
    if not shadow.affected:
        return
    rows = [
        [str(count), _WORDS[key.outcome], key.source, key.destination, key.method, key.path,
         str(shadow.samples[key]["decision_id"])]
        for key, count in shadow.affected.most_common(_SHOWN)
    ]  # fmt: skip
    yield "  who would notice:"
    yield from aligned([list(_COLUMNS), *rows])
    if len(shadow.affected) > _SHOWN:
        yield f"  and {plural(len(shadow.affected) - _SHOWN, 'group')} more"


def _span(hours: float) -> str:
    return f"{hours:.1f} hours" if hours < _SHORT_HOURS else f"{hours / 24:.1f} days"


def _document(shadow: PolicyShadow) -> dict[str, Any]:
    return {
        "policy": shadow.policy,
        "action": shadow.action,
        "verdict": shadow.verdict,
        "first": shadow.first,
        "last": shadow.last,
        "hours": round(shadow.hours, 3),
        "requests": shadow.seen,
        "exercised": shadow.exercised,
        "outcomes": dict(sorted(shadow.outcomes.items())),
        "rules": shadow.rules,
        "rules_never_fired": list(shadow.silent_rules),
        "callers_broken": dict(shadow.broken.most_common()),
        "errors": dict(shadow.errors.most_common()),
        "affected": [
            {
                "outcome": key.outcome,
                "count": count,
                "source": key.source,
                "destination": key.destination,
                "method": key.method,
                "path": key.path,
                "sample": dict(shadow.samples[key]),
            }
            for key, count in shadow.affected.most_common()
        ],
    }
