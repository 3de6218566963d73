"""Reports say what the record says, in every form, and hostile texts in them do nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from audit.chain import ChainState, link_line, segment_name
from audit.document import document_from_event, document_from_record
from audit.errors import AuditQueryError
from audit.export import forms, html
from audit.query import Query
from audit.query_engine import LogQueries
from audit.record import (
    AuditEvent,
    AuditRecord,
    DecisionFacts,
    EventName,
    FailedOpenFacts,
    PeerFacts,
    RequestFacts,
    ShadowFacts,
)
from audit.redact import Redactor
from audit.report import CONTROLS, QUESTIONS, TITLES, Grant, Report, Section, Verification
from audit.report_build import as_rows, build_report
from audit.verify import verify_folder

_EVIL = "=1|</td><script>alert(1)</script>[x](javascript:1)\n# h\u202e\x1b[1m"
_GRANTS = (
    Grant(policy="shop/web", rule=0, place="p.yaml:3", principals=("td/ns/a/sa/b", "td/ns/a/sa/z")),
    Grant(policy="shop/web", rule=1, place="p.yaml:9"),
    Grant(policy="shop/all", rule=0, place="p.yaml:20"),
)


_FORMS = {
    "csv": forms.write_csv,
    "json": forms.write_json,
    "jsonl": forms.write_jsonl,
    "md": forms.write_markdown,
    "html": html.write_html,
}


def _allowed(rule: int, policy: str = "shop/web") -> DecisionFacts:
    return DecisionFacts(
        effect="allow",
        reason="allow_rule_matched",
        layer="ALLOW",
        http_status=200,
        policy=policy,
        rule=rule,
    )


@pytest.fixture
def log(tmp_path: Path, record: Callable[..., AuditRecord]) -> Path:
    """A log with grants used, a nameless caller, a provider passed, a reload, and an attack."""
    would = ShadowFacts(
        policy="shop/try", action="DENY", matched=None, effect="deny", outcome="would_deny"
    )
    opened = FailedOpenFacts(provider="opa", reason="provider_timeout", error="late")
    items = [
        record(1, decision=_allowed(0)),
        record(2, decision=_allowed(0), shadow=(would,)),
        record(3, decision=_allowed(0, "shop/all"), peer=None, subject=None),
        record(4, failed_open=(opened,)),
        AuditEvent(
            event=EventName.RELOAD,
            at=1_700_000_003.0,
            details={"result": "loaded", "revision": "sha256:next"},
        ),
        record(100_000, peer=PeerFacts(principal=_EVIL), request=RequestFacts(method=_EVIL)),
    ]
    redactor, state = Redactor(), ChainState()
    folder = tmp_path / "log"
    folder.mkdir()
    with (folder / segment_name(1)).open("wb") as file:
        for item in items:
            make = document_from_event if isinstance(item, AuditEvent) else document_from_record
            line, state = link_line(state, make(item, node="n", redactor=redactor))
            file.write(line)
    return folder


def _report(log: Path, *names: str, grants: tuple[Grant, ...] | None = _GRANTS) -> Report:
    with LogQueries([log]) as queries:
        return build_report(
            queries,
            Query(),
            names=names,
            verification=Verification((verify_folder(log),)),
            grants=grants,
        )


def _section(log: Path, name: str) -> Section:
    return _report(log, name).sections[0]


def _text(report: Report, format: str) -> str:
    out = io.StringIO(newline="")
    _FORMS[format](report, out)
    return out.getvalue()


def test_matrix_counts_who_called_what(log: Path) -> None:
    """Each caller, destination and method has one row with both counts."""
    rows = {row["peer"]: row for row in as_rows(_section(log, "access-matrix"))}
    assert rows.keys() == {"", "spiffe://td/ns/a/sa/b", _EVIL}
    known = rows["spiffe://td/ns/a/sa/b"]
    assert (known["destination"], known["allowed"], known["denied"]) == ("shop/cart", 2, 1)


def test_unused_grants_come_first(log: Path) -> None:
    """A rule that never allowed comes before one whose named callers are partly missing."""
    rows = as_rows(_section(log, "granted-unused"))
    assert [(row["policy"], row["rule"], row["use"]) for row in rows] == [
        ("shop/web", 1, "never"),
        ("shop/web", 0, "partly"),
        ("shop/all", 0, "used"),
    ]
    assert rows[1]["unused_principals"] == "td/ns/a/sa/z"
    assert rows[1]["decisions"] == 2


def test_without_policies_nothing_is_called_unused(log: Path) -> None:
    """Where no policies are given the section says so, and makes no claim."""
    report = _report(log, "granted-unused", grants=None)
    section = report.sections[0]
    assert section.rows == ()
    assert "no policies were given" in section.notes[0]
    for format in ("html", "md", "json"):
        assert "Not known." in _text(report, format)
        assert "Nothing." not in _text(report, format)


def test_nameless_callers_are_told(log: Path) -> None:
    """Access without a peer is counted, with whether there was a token."""
    rows = as_rows(_section(log, "anonymous-plaintext"))
    assert [(row["peer"], row["token"], row["allowed"]) for row in rows] == [
        ("no peer", "no token", 1)
    ]


def test_overview_counts_what_the_sections_list(log: Path) -> None:
    """The numbers and charts at the head are those of the tables below."""
    report = _report(log)
    overview = report.overview
    assert (overview.total, overview.allowed, overview.denied) == (5, 3, 2)
    assert (overview.callers_count, overview.workloads_count, overview.anonymous) == (2, 1, 1)
    assert (overview.shadow_differences, overview.failed_open) == (1, 1)
    assert [bar.count for bar in overview.refusing] == [2]
    assert sum(bar.count for bar in overview.refused) == overview.denied
    assert sum(map(sum, overview.hours)) == overview.denied
    cells = [cell for row in overview.cells for cell in row]
    assert sum(cell.allowed for cell in cells) == overview.allowed
    assert len(overview.cells) == len(overview.callers)


def test_newest_decisions_are_shown_first(log: Path) -> None:
    """The decisions of a report are the newest, each with who, what, by what and why."""
    rows = as_rows(_section(log, "decisions"))
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
    assert rows[-1]["answer"] == "allow 200"
    assert rows[-1]["decided by"] == "shop/web#0"


def test_changes_and_exceptions_are_told(log: Path) -> None:
    """Reloads stand between decisions; trials and passed providers are counted."""
    changes = as_rows(_section(log, "policy-changes"))
    assert [(row["what"], row["revision"]) for row in changes] == [
        ("first decision", "sha256:abc"),
        ("reload", "sha256:next"),
    ]
    found = {(row["name"], row["outcome"]) for row in as_rows(_section(log, "shadow-exceptions"))}
    assert found == {
        ("opa", "provider_timeout"),
        ("shop/try", "would_deny"),
        ("shop/try", "same"),
    }


def test_every_form_says_when_the_record_is_broken(log: Path) -> None:
    """A broken record is told in each form that speaks of the whole."""
    path = log / segment_name(1)
    path.write_bytes(path.read_bytes().replace(b"alice", b"mally", 1))
    report = _report(log)
    assert json.loads(_text(report, "json"))["intact"] is False
    assert "**BROKEN**" in _text(report, "md")
    assert "broken in 1 place" in _text(report, "html")
    assert report.overview.allowed == 2


def test_forms_agree(log: Path) -> None:
    """JSON, JSON lines and CSV give the same rows."""
    report = _report(log, "access-matrix")
    rows = json.loads(_text(report, "json"))["sections"][0]["rows"]
    lines = [json.loads(line) for line in _text(report, "jsonl").splitlines()]
    assert lines == [{"report": "access-matrix", **row} for row in rows]
    cells = list(csv.DictReader(io.StringIO(_text(report, "csv"), newline="")))
    assert [cell["allowed"] for cell in cells] == [str(row["allowed"]) for row in rows]


def test_csv_takes_one_report(log: Path) -> None:
    """Sections of different columns are not put into one CSV; no cell is a formula."""
    with pytest.raises(AuditQueryError, match="one report at a time"):
        _text(_report(log), "csv")
    rows = list(csv.reader(io.StringIO(_text(_report(log, "access-matrix"), "csv"), newline="")))
    assert not any(cell.startswith("=") for row in rows for cell in row)


class _Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_hostile_text_does_nothing(log: Path) -> None:
    """A caller's name that is HTML, Markdown or a control sign is shown as text."""
    report = _report(log)
    page, text = _text(report, "html"), _text(report, "md")
    tags = _Tags(page).tags
    assert not {"img", "iframe", "link", "object"} & {tag for tag, _ in tags}
    assert [attributes for tag, attributes in tags if tag == "script"] == [{}]
    assert not any(
        name.startswith("on") or name in ("src", "style") for _, found in tags for name in found
    )
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert links[: len(TITLES)] == [f"#{name}" for name in TITLES]
    assert {f"#{attributes.get('id')}" for tag, attributes in tags if tag == "section"} >= set(
        links
    )
    for shown in (page, text):
        assert "\u202e" not in shown
        assert "\x1b" not in shown
    assert "default-src 'none'" in page
    assert "<script" not in text
    assert "](javascript" not in text
    assert "\n# h" not in text
    matrix = text.partition("## Access matrix")[2].partition("##")[0]
    assert {line.replace("\\|", "").count("|") for line in matrix.splitlines() if "|" in line} == {
        8
    }


def test_every_section_has_its_words() -> None:
    """Each section has a question, and each control names sections that exist."""
    assert TITLES.keys() == QUESTIONS.keys()
    assert {name for *_, names in CONTROLS for name in names} <= TITLES.keys()


def test_unknown_report_is_refused(log: Path) -> None:
    """A name of no section is an error, never an empty report."""
    with pytest.raises(AuditQueryError, match="`costs` is no report"):
        _report(log, "costs")
