"""The sections of a report, each made by one question to the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final

from audit.errors import AuditQueryError
from audit.export.columns import (
    name_destination,
    name_peer,
    name_rule,
    name_shadow,
    name_subject,
    pick_at,
)
from audit.query import Query
from audit.query_engine import LogQueries
from audit.report import (
    CONTROLS,
    QUESTIONS,
    TITLES,
    Grant,
    Report,
    Section,
    Verification,
    controls_of,
)
from audit.report_overview import build_overview
from audit.verify import VerifyReport

NEWEST: Final = 500  # BUDGET: decisions that a report shows one by one; the rest is counted
MAX_ROWS: Final = 20_000  # BUDGET: rows of a section; strangers choose how many callers there are
# The log is read once for all that is counted by who, what and by which rule.
_FACTS: Final = (
    "SELECT left(decided_at, 10) AS day, peer, proof, subject = '' AS is_tokenless, destination, "
    "method, effect, reason, layer, policy, rule, revision, count(*) AS n, "
    "count(*) FILTER (failed_open IS NOT NULL) AS opened, min(decided_at) AS first_at, "
    "max(decided_at) AS last_at FROM wanted GROUP BY ALL"
)
_SHADOWS: Final = (
    "SELECT coalesce(each->>'$.action', '') AS action, each->>'$.policy' AS policy, "
    "each->>'$.outcome' AS outcome, count(*) AS n, min(decided_at) AS first_at, "
    "max(decided_at) AS last_at FROM (SELECT unnest(try_cast(shadow AS JSON[])) AS each, "
    "decided_at FROM wanted WHERE shadow::VARCHAR <> '[]') GROUP BY ALL"
)
_ALLOWED: Final = "coalesce(sum(n) FILTER (effect = 'allow'), 0)::BIGINT"
_DENIED: Final = "coalesce(sum(n) FILTER (effect <> 'allow'), 0)::BIGINT"
_TIMES: Final = "min(first_at), max(last_at)"
_COUNTS: Final = f"{_ALLOWED}, {_DENIED}, {_TIMES}"
_COUNT_NAMES: Final = ("allowed", "denied", "first", "last")
_CHANGES: Final = ("start", "stop", "reload", "resume", "record_fault")


@dataclass(frozen=True, slots=True)
class _Sources:
    """What sections are made of; `grants` is None where no policies were given."""

    queries: LogQueries
    query: Query
    grants: Sequence[Grant] | None
    verification: Verification


@dataclass(frozen=True, slots=True)
class _Table:
    columns: tuple[str, ...]
    rows: Sequence[tuple[object, ...]]
    notes: tuple[str, ...] = ()
    empty: str = "Nothing."


def build_report(
    queries: LogQueries,
    query: Query,
    *,
    names: Sequence[str],
    verification: Verification,
    grants: Sequence[Grant] | None = None,
    tell: Callable[[int, int], None] = lambda _done, _whole: None,
) -> Report:
    """Return the named sections over the wanted decisions; no names: every section.

    `tell` is called with how many steps are done, and of how many.

    Raises:
        AuditQueryError: a name is that of no section.
        AuditReadError: a segment cannot be read.
    """
    for name in names:
        if name not in TITLES:
            raise AuditQueryError(f"`{name}` is no report: expected one of {', '.join(TITLES)}")
    sources = _Sources(queries, query, grants, verification)
    chosen = names or tuple(TITLES)
    steps = len(chosen) + 2
    queries.tabulate("facts", _FACTS, query)
    queries.tabulate("shadows", _SHADOWS, query)
    tell(1, steps)
    overview = build_overview(queries, query)
    sections = []
    for done, name in enumerate(chosen, start=2):
        tell(done, steps)
        sections.append(_section(name, sources))
    tell(steps, steps)
    return Report(
        title="Meshwarden access report",
        range=str(query.range),
        overview=overview,
        sections=tuple(sections),
        verification=verification,
    )


def _section(name: str, sources: _Sources) -> Section:
    table = _SECTIONS[name](sources)
    notes = table.notes
    if len(table.rows) > MAX_ROWS:
        notes += (f"the first {MAX_ROWS} of {len(table.rows)} rows are shown",)
    return Section(
        name=name,
        title=TITLES[name],
        question=QUESTIONS[name],
        columns=table.columns,
        rows=tuple(table.rows[:MAX_ROWS]),
        notes=notes,
        controls=controls_of(name),
        empty=table.empty,
    )


def _access_matrix(sources: _Sources) -> _Table:
    rows = sources.queries.rows(
        f"SELECT peer, destination, method, {_COUNTS} FROM facts "  # noqa: S608
        "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        sources.query,
    )
    return _Table(("peer", "destination", "method", *_COUNT_NAMES), rows)


def _granted_unused(sources: _Sources) -> _Table:
    columns = ("policy", "rule", "place", "use", "decisions", "last", "unused_principals")
    if sources.grants is None:
        note = "no policies were given: what is granted is not known"
        return _Table(columns, (), (note,), empty="Not known.")
    used: dict[tuple[str, int], list[tuple[str, int, str]]] = {}
    for policy, rule, peer, count, last in sources.queries.rows(
        "SELECT policy, rule, peer, sum(n)::BIGINT, max(last_at) FROM facts "
        "WHERE layer = 'ALLOW' AND effect = 'allow' AND rule IS NOT NULL GROUP BY 1, 2, 3",
        sources.query,
    ):
        used.setdefault((policy, rule), []).append((peer, count, last))
    rows = [_use_of(grant, used.get((grant.policy, grant.rule), [])) for grant in sources.grants]
    order = ("never", "partly", "used")
    rows.sort(key=lambda row: (order.index(str(row[3])), str(row[0]), row[1]))
    return _Table(
        columns,
        rows,
        (
            "the rule on record is the first that allowed: one that also matched is not counted",
            "policies are those given now, uses are those of the whole range",
        ),
    )


def _use_of(grant: Grant, uses: Sequence[tuple[str, int, str]]) -> tuple[object, ...]:
    seen = {peer.removeprefix("spiffe://") for peer, _, _ in uses}
    unused = [name for name in grant.principals if name.removeprefix("spiffe://") not in seen]
    use = "never" if not uses else "partly" if unused else "used"
    return (
        grant.policy,
        grant.rule,
        grant.place,
        use,
        sum(count for _, count, _ in uses),
        max((last for _, _, last in uses), default=""),
        " ".join(unused),
    )


def _anonymous(sources: _Sources) -> _Table:
    rows = sources.queries.rows(
        "SELECT CASE WHEN peer = '' THEN 'no peer' ELSE 'peer named by ' || proof END, "  # noqa: S608
        "CASE WHEN is_tokenless THEN 'no token' ELSE 'token' END, "
        f"destination, method, {_COUNTS} FROM facts "
        "WHERE peer = '' OR proof NOT IN ('tls', 'certificate', '') "
        "GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2, 3, 4",
        sources.query,
    )
    note = "no peer: plaintext, or TLS without a certificate of the caller"
    return _Table(("peer", "token", "destination", "method", *_COUNT_NAMES), rows, (note,))


def _policy_changes(sources: _Sources) -> _Table:
    found: list[tuple[object, ...]] = [
        (first, "first decision", "", revision, f"{count} decisions until {last}")
        for revision, count, first, last in sources.queries.rows(
            f"SELECT revision, sum(n)::BIGINT, {_TIMES} FROM facts GROUP BY 1",  # noqa: S608
            sources.query,
        )
    ]
    for event in sources.queries.events(sources.query.range, _CHANGES):
        details = event.get("details")
        details = details if isinstance(details, Mapping) else {}
        told = "; ".join(
            f"{name}: {value}" for name, value in details.items() if name != "revision"
        )
        name, node = str(event.get("event", "")), str(event.get("node", ""))
        found.append((event.get("at", ""), name, node, str(details.get("revision", "")), told))
    found.sort(key=lambda row: str(row[0]))
    return _Table(("at", "what", "node", "revision", "detail"), found)


def _shadow_exceptions(sources: _Sources) -> _Table:
    columns = ("what", "name", "outcome", "count", "first", "last")
    shadows = sources.queries.rows(
        "SELECT 'shadow ' || action, policy, outcome, n, first_at, last_at FROM shadows "
        "ORDER BY 2, 3, 1",
        sources.query,
    )
    opened = sources.queries.rows(
        "SELECT 'failed open', each->>'$.provider', each->>'$.reason', count(*), "
        "min(decided_at), max(decided_at) FROM (SELECT unnest(try_cast(failed_open AS JSON[])) "
        "AS each, decided_at FROM wanted WHERE failed_open IS NOT NULL) "
        "GROUP BY 1, 2, 3 ORDER BY 2, 3",
        sources.query,
    )
    return _Table(columns, [*opened, *shadows])


_DECISION_COLUMNS: Final = (
    "at", "answer", "peer", "subject", "request", "destination", "decided by", "why", "id"
)  # fmt: skip


def _decisions(sources: _Sources) -> _Table:
    rows = [_decision_row(each) for each in sources.queries.newest(sources.query, NEWEST)]
    notes: tuple[str, ...] = ()
    if len(rows) == NEWEST:
        notes = (f"the newest {NEWEST} are shown; `--report decisions` as CSV or JSON has all",)
    return _Table(_DECISION_COLUMNS, rows, notes)


def _decision_row(record: Mapping[str, Any]) -> tuple[object, ...]:
    effect, status = pick_at("decision", "effect")(record), pick_at("decision", "http_status")
    shadow = name_shadow(record)
    why = (
        pick_at("decision", "reason")(record),
        pick_at("decision", "detail")(record),
        pick_at("decision", "near_miss")(record),
        f"shadow: {shadow}" if shadow else "",
    )
    method, host, path = (pick_at("request", name)(record) for name in ("method", "host", "path"))
    return (
        str(record.get("decided_at", "")),
        f"{effect or ''} {status(record) or ''}".strip(),
        name_peer(record),
        name_subject(record),
        f"{method or ''} {host or ''}{path or ''}".strip(),
        name_destination(record),
        f"{name_rule(record)} {pick_at('decision', 'place')(record) or ''}".strip(),
        "; ".join(str(each) for each in why if each),
        str(record.get("decision_id", "")),
    )


def _integrity(sources: _Sources) -> _Table:
    many = len(sources.verification.reports) > 1
    rows: list[tuple[object, ...]] = []
    notes = ["the whole record was looked at, beyond the range of the report"]
    if sources.verification.noted:
        notes.append(
            f"{sources.verification.noted} segments were read line by line when their columns were "
            "made; their bytes are the same now, by SHA-256, and what was noted of them then is "
            "believed: `--no-cache` reads every line again"
        )
    for report in sources.verification.reports:
        label = f"{PurePath(report.path).name}: " if many else ""
        rows += [(f"{label}{what}", value) for what, value in _statement(report)]
        notes += [f"{label}{note}" for note in report.notes]
    return _Table(("what", "value"), rows, tuple(notes))


def _statement(report: VerifyReport) -> list[tuple[str, object]]:
    return [
        ("verdict", report.verdict),
        ("lines", report.lines),
        ("segments", report.segments),
        ("decisions", report.decisions),
        ("events", report.events),
        ("first", report.first_at),
        ("last", report.last_at),
        ("last line", report.last_seq),
        ("hash of the last line", report.last_hash),
        ("checkpoints whose root is that of the lines", report.checkpoints),
        ("lines under a checkpoint", report.signed_lines),
        *(
            (f"signed by {signer}", f"lines {first} to {last}")
            for signer, first, last in report.signed_by
        ),
        *(("problem", str(problem)) for problem in report.problems),
    ]


def _controls(_: _Sources) -> _Table:
    rows = [
        (framework, control, asks, ", ".join(TITLES[name] for name in sections))
        for framework, control, asks, sections in CONTROLS
    ]
    note = "a section is evidence for a control; whether the control is met, a person judges"
    return _Table(("framework", "control", "asks", "sections"), rows, (note,))


_SECTIONS: Final[Mapping[str, Callable[[_Sources], _Table]]] = MappingProxyType(
    {
        "access-matrix": _access_matrix,
        "granted-unused": _granted_unused,
        "anonymous-plaintext": _anonymous,
        "policy-changes": _policy_changes,
        "shadow-exceptions": _shadow_exceptions,
        "decisions": _decisions,
        "integrity": _integrity,
        "controls": _controls,
    }
)


def as_rows(section: Section) -> list[dict[str, Any]]:
    """Return a section's rows by the names of its columns."""
    return [dict(zip(section.columns, row, strict=True)) for row in section.rows]
