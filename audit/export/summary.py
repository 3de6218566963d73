"""What a reader wants to know before the rows: totals, and who was refused by what."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from audit.export.columns import differing_shadows, name_peer, name_rule

MAX_ROWS: Final = 2000  # BUDGET: decisions a page shows; a browser stays quick, totals count all
_TOP: Final = 10
_MAX_NAMES: Final = 50_000  # BUDGET: different names counted on their own


@dataclass(slots=True)
class Summary:
    """Totals over all records, and the newest of them. `others` were past the name budget."""

    total: int = 0
    allowed: int = 0
    denied: int = 0
    first_at: str = ""
    last_at: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    allowed_rules: Counter[str] = field(default_factory=Counter)
    denied_rules: Counter[str] = field(default_factory=Counter)
    denied_peers: Counter[str] = field(default_factory=Counter)
    shadows: Counter[tuple[str, str]] = field(default_factory=Counter)
    anonymous: int = 0
    newest: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_ROWS))

    def top(self, counter: Counter[str]) -> list[tuple[str, int]]:
        """Return the most frequent names with their counts, the name deciding between equals."""
        return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:_TOP]

    @property
    def shadow_rows(self) -> list[tuple[str, str, int]]:
        """The shadow differences as (policy, outcome, count)."""
        ordered = sorted(self.shadows.items(), key=lambda item: (-item[1], item[0]))
        return [(policy, outcome, count) for (policy, outcome), count in ordered[: _TOP * 2]]


def summarize(records: Iterable[Mapping[str, Any]]) -> Summary:
    """Return the totals of the records, read once."""
    summary = Summary()
    for record in records:
        _add(summary, record)
    return summary


def _add(summary: Summary, record: Mapping[str, Any]) -> None:
    decision = record.get("decision")
    decision = decision if isinstance(decision, Mapping) else {}
    at = str(record.get("decided_at", ""))
    summary.total += 1
    summary.first_at = min(summary.first_at or at, at)
    summary.last_at = max(summary.last_at, at)
    peer = name_peer(record)
    summary.anonymous += not peer
    rule = name_rule(record) or f"no rule: {decision.get('reason', 'unknown')}"
    _count(summary.reasons, str(decision.get("reason", "")))
    if decision.get("effect") == "allow":
        summary.allowed += 1
        _count(summary.allowed_rules, rule)
    else:
        summary.denied += 1
        _count(summary.denied_rules, rule)
        _count(summary.denied_peers, peer or "(no peer)")
    for shadow in differing_shadows(record):
        key = (str(shadow.get("policy", "")), str(shadow.get("outcome", "")))
        if key in summary.shadows or len(summary.shadows) < _MAX_NAMES:
            summary.shadows[key] += 1
    summary.newest.append(record)


def _count(counter: Counter[str], name: str) -> None:
    """Count a name; strangers choose peers, so past the budget they are counted together."""
    counter[name if name in counter or len(counter) < _MAX_NAMES else "(others)"] += 1
