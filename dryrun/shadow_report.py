"""What the record says of each dry-run policy: is it safe to enforce, and who would notice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dryrun.candidate import CANDIDATE
from dryrun.path_shape import path_shape
from dryrun.replay_report import destination_of, sample_of, source_of
from dryrun.shadow import TOGETHER
from dryrun.text import plural
from policies.decision import ShadowOutcome

_SETS = (TOGETHER, CANDIDATE)


@dataclass(frozen=True, slots=True)
class Affected:
    """Requests whose answer would be another, by what they have in common."""

    outcome: str
    source: str
    destination: str
    method: str
    path: str


@dataclass(slots=True)
class PolicyShadow:
    """What the record holds of one dry-run policy, or of a set under its name.

    `seen` counts the requests that it applied to, `exercised` those of them that one of its
    rules matched or whose answer it would change. `rules` is how many rules it had last.
    """

    policy: str
    action: str = ""
    first: str = ""
    last: str = ""
    seen: int = 0
    exercised: int = 0
    rules: int = 0
    fired: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    affected: Counter[Affected] = field(default_factory=Counter)
    samples: dict[Affected, Mapping[str, Any]] = field(default_factory=dict)
    broken: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, document: Mapping[str, Any], verdict: Mapping[str, Any]) -> None:
        """Take in what one record says of the policy."""
        at, outcome = document["decided_at"], verdict["outcome"]
        self.first, self.last = min(self.first or at, at), max(self.last, at)
        self.action = verdict["action"]
        self.seen += 1
        self.rules = verdict.get("rules", 0)
        self.outcomes[outcome] += 1
        is_change = outcome in (ShadowOutcome.WOULD_DENY, ShadowOutcome.WOULD_ALLOW)
        self.exercised += bool(verdict["matched"] or is_change)
        if verdict["matched"] and self.policy not in _SETS:
            self.fired[int(verdict["matched"].rpartition("#")[2])] += 1
        if outcome == ShadowOutcome.ERROR:
            self.errors[verdict["detail"]] += 1
        if is_change:
            self._affect(document, outcome)

    def _affect(self, document: Mapping[str, Any], outcome: str) -> None:
        request = document["request"]
        source = source_of(document)
        key = Affected(
            outcome=outcome,
            source=source,
            destination=destination_of(document),
            method=request["method"] or "(connection)",
            path=path_shape(request["path"]),
        )
        self.affected[key] += 1
        self.samples.setdefault(key, sample_of(document))
        if outcome == ShadowOutcome.WOULD_DENY:
            self.broken[source] += 1

    @property
    def silent_rules(self) -> tuple[int, ...]:
        """The numbers of the rules that never matched."""
        return tuple(number for number in range(self.rules) if not self.fired[number])

    @property
    def hours(self) -> float:
        """How long the record tells of it."""
        first, last = datetime.fromisoformat(self.first), datetime.fromisoformat(self.last)
        return (last - first).total_seconds() / 3600

    @property
    def verdict(self) -> str:
        """`ready`, `not exercised`, or `would break N callers`."""
        if self.broken:
            return f"would break {plural(len(self.broken), 'caller')}"
        return "ready" if self.exercised else "not exercised"


def shadows_of(documents: Iterable[Mapping[str, Any]]) -> list[PolicyShadow]:
    """Return what decisions say of each dry-run policy, by name; sets of policies last."""
    found: dict[str, PolicyShadow] = {}
    for document in documents:
        for verdict in document["shadow"]:
            name = verdict["policy"]
            found.setdefault(name, PolicyShadow(policy=name)).add(document, verdict)
    return sorted(found.values(), key=lambda each: (each.policy in _SETS, each.policy))
