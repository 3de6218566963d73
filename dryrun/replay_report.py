"""What a replay changes, in groups that one person can act on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dryrun.path_shape import path_shape
from dryrun.replay import Change, Replayed


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupKey:
    """What the requests of a group have in common."""

    change: Change
    source: str
    destination: str
    method: str
    path: str
    rule: str
    was: str


@dataclass(slots=True)
class Group:
    """Requests whose answer changes alike; times are those of the record, `sample` the first."""

    count: int = 0
    first: str = ""
    last: str = ""
    sample: Mapping[str, Any] = field(default_factory=dict)

    def add(self, document: Mapping[str, Any]) -> None:
        """Take one more request in."""
        at = document["decided_at"]
        if not self.count or at < self.first:
            self.first, self.sample = at, sample_of(document)
        self.last = max(self.last, at)
        self.count += 1


@dataclass(slots=True)
class ReplayReport:
    """The result of a replay. `unknown` counts by reason what cannot be replayed exactly."""

    counts: Counter[Change] = field(default_factory=Counter)
    groups: dict[GroupKey, Group] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    first: str = ""
    last: str = ""
    unbelieved: int = 0

    @property
    def total(self) -> int:
        """How many decisions were looked at."""
        return self.counts.total()

    def sorted_groups(self, change: Change) -> list[tuple[GroupKey, Group]]:
        """Return the groups of one kind of change, the largest first."""
        found = [(key, group) for key, group in self.groups.items() if key.change is change]
        return sorted(found, key=lambda pair: (-pair[1].count, pair[0].source, pair[0].path))

    def is_failed_by(self, fail_on: str) -> bool:
        """Whether changes of this kind (`new-deny`, `new-allow`, `any`, empty: none) were found."""
        kinds = {
            "new-deny": (Change.NEW_DENY,),
            "new-allow": (Change.NEW_ALLOW,),
            "any": (Change.NEW_DENY, Change.NEW_ALLOW),
        }
        return any(self.counts[change] for change in kinds.get(fail_on, ()))


def report_of(replayed: Iterable[Replayed]) -> ReplayReport:
    """Return the report of a replay."""
    report = ReplayReport()
    for each in replayed:
        at = each.document["decided_at"]
        report.first = min(report.first or at, at)
        report.last = max(report.last, at)
        report.counts[each.change] += 1
        if each.change is Change.UNKNOWN:
            report.unknown[each.why] += 1
        elif each.change is not Change.SAME:
            report.groups.setdefault(_key(each), Group()).add(each.document)
    return report


def source_of(document: Mapping[str, Any]) -> str:
    """Return who asked: namespace and service account where the peer is a workload's."""
    peer = document["peer"]
    if peer is None:
        return f"(no peer) {document['source']['address']}".rstrip()
    mapped = peer.get("mapped")
    if mapped:
        return f"{mapped['namespace']}/{mapped['service_account']}"
    principal = str(peer["principal"])
    parts = principal.split("/")
    is_workload = len(parts) == 7 and parts[0] == "spiffe:" and (parts[3], parts[5]) == ("ns", "sa")
    return f"{parts[4]}/{parts[6]}" if is_workload else principal


def destination_of(document: Mapping[str, Any]) -> str:
    """Return who was asked, as far as the record tells: namespace and account or `app`."""
    place = document["destination"]
    if place is None:
        return "(unknown)"
    service = (document.get("replay") or {}).get("service")
    if service and service["name"]:
        return f"{service['namespace']}/{service['name']}"
    labels = place["labels"]
    name = place["service_account"] or labels.get("app") or labels.get("app.kubernetes.io/name")
    return f"{place['namespace']}/{name}" if name else str(place["namespace"])


def sample_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return one request as the record shows it, enough to find it there."""
    request, subject = document["request"], document["subject"]
    found = {
        "decision_id": document["decision_id"],
        "at": document["decided_at"],
        "method": request["method"],
        "host": request["host"],
        "path": request["path"],
        "source": source_of(document),
    }
    if subject is not None:
        found["subject"] = f"{subject['issuer']}/{subject['sub']}"
    return found


def _key(each: Replayed) -> GroupKey:
    document = each.document
    request = document["request"]
    return GroupKey(
        change=each.change,
        source=source_of(document),
        destination=destination_of(document),
        method=request["method"] or "(connection)",
        path=path_shape(request["path"]),
        rule=each.new_rule,
        was=each.old_rule,
    )
