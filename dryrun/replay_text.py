"""A replay's report as a table for people, as JSON, and as Markdown for a pull request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

from dryrun.replay import Change
from dryrun.replay_report import Group, GroupKey, ReplayReport
from dryrun.text import aligned, one_line, plural

_TITLES: Final = {Change.NEW_DENY: "Newly denied", Change.NEW_ALLOW: "Newly allowed"}
_COLUMNS: Final = (
    "requests", "source", "destination", "method", "path", "rule", "was", "first seen",
    "last seen", "sample",
)  # fmt: skip


def as_table(report: ReplayReport) -> str:
    """Return the report for a terminal: a summary, then a table for each kind of change."""
    lines = [*_summary(report)]
    for change, title in _TITLES.items():
        rows = [list(_row(key, group)) for key, group in report.sorted_groups(change)]
        if rows:
            lines += ["", f"{title}:", *aligned([list(_COLUMNS), *rows])]
    if report.unknown:
        lines += ["", "Not replayed exactly:"]
        lines += [f"  {count:>8}  {why}" for why, count in report.unknown.most_common()]
    return "\n".join(lines) + "\n"


def as_json(report: ReplayReport) -> str:
    """Return the report as one JSON object."""
    document = {
        "requests": report.total,
        "first": report.first,
        "last": report.last,
        "unbelieved_lines": report.unbelieved,
        **{str(change): report.counts[change] for change in Change},
        "changes": [
            {
                "change": str(change),
                "count": group.count,
                "source": key.source,
                "destination": key.destination,
                "method": key.method,
                "path": key.path,
                "rule": key.rule,
                "was": key.was,
                "first_seen": group.first,
                "last_seen": group.last,
                "sample": dict(group.sample),
            }
            for change in _TITLES
            for key, group in report.sorted_groups(change)
        ],
        "not_replayed": dict(report.unknown.most_common()),
    }
    return json.dumps(document, indent=2) + "\n"


def as_markdown(report: ReplayReport) -> str:
    """Return the report as Markdown."""
    changed = report.counts[Change.NEW_DENY] + report.counts[Change.NEW_ALLOW]
    lines = [f"### Policy replay: {plural(changed, 'answer')} would change", ""]
    lines += [f"- {line.strip()}" for line in _summary(report)]
    for change, title in _TITLES.items():
        groups = report.sorted_groups(change)
        if groups:
            lines += ["", f"#### {title}", "", _cells(_COLUMNS), _cells(["---"] * len(_COLUMNS))]
            lines += [_cells(map(_code, _row(key, group))) for key, group in groups]
    if report.unknown:
        lines += ["", "#### Not replayed exactly", "", _cells(["requests", "why"]), "|---|---|"]
        lines += [_cells([str(n), _escaped(why)]) for why, n in report.unknown.most_common()]
    return "\n".join(lines) + "\n"


FORMATS: Final[Mapping[str, Callable[[ReplayReport], str]]] = MappingProxyType(
    {"table": as_table, "json": as_json, "markdown": as_markdown}
)
"""What `--format` may say."""


def _summary(report: ReplayReport) -> Iterator[str]:
    span = f" from {report.first} to {report.last}" if report.total else ""
    yield f"{plural(report.total, 'recorded request')} decided again{span}"
    yield f"  {report.counts[Change.SAME]} answered as before"
    for change, title in _TITLES.items():
        groups = plural(len(report.sorted_groups(change)), "group")
        yield f"  {report.counts[change]} {title.lower()} ({groups})"
    yield f"  {report.counts[Change.UNKNOWN]} cannot be replayed exactly"
    if report.unbelieved:
        yield (
            f"  {plural(report.unbelieved, 'line')} left out: damaged, `meshwarden audit verify` "
            "says where"
        )


def _row(key: GroupKey, group: Group) -> Iterator[str]:
    yield from (str(group.count), key.source, key.destination, key.method, key.path)
    yield from (key.rule, key.was, group.first, group.last, str(group.sample["decision_id"]))


def _cells(texts: Iterable[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _code(text: str) -> str:
    """Return the text as Markdown code, whatever is in it."""
    return f"`{_escaped(text).replace('`', 'ˋ')}`"


def _escaped(text: str) -> str:
    return one_line(text).replace("|", "\\|")
