"""Exports say what the record says, and hostile texts in them do nothing."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.commands import FORMATS, run_export, run_verify
from audit.errors import AuditQueryError, AuditReadError
from audit.export import html
from audit.export.csv import safe_cell
from audit.record import PeerFacts, RequestFacts, ShadowFacts
from audit.time_range import TimeRange, parse_range

_NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
_HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><a href=javascript:x>"


def _export(path: Path, format: str, **options: str) -> str:
    out = io.StringIO(newline="")
    run_export(path, out, format=format, now=_NOW, **options)
    return out.getvalue()


class _Tags(HTMLParser):
    """Collects the page's tags and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_jsonl_gives_the_lines_back(log: Path) -> None:
    """Every decision is one JSON line, as it stands in the log."""
    documents = [json.loads(line) for line in _export(log, "jsonl").splitlines()]
    assert [document["request"]["path"] for document in documents] == [
        f"/orders/{number}" for number in range(40)
    ]


def test_csv_has_a_row_a_decision(log: Path) -> None:
    """The CSV is read back with the fields a reviewer sorts by."""
    rows = list(csv.DictReader(io.StringIO(_export(log, "csv"), newline="")))
    assert len(rows) == 40
    assert rows[7]["path"] == "/orders/7"
    assert (rows[7]["effect"], rows[7]["policy"], rows[7]["peer"]) == (
        "deny",
        "shop/no-orders",
        "spiffe://td/ns/a/sa/b",
    )


@pytest.mark.parametrize("format", list(FORMATS))
def test_range_is_half_open(log: Path, format: str) -> None:
    """`since` is included, `until` is not, in every format."""
    out = io.StringIO(newline="")
    since, until = "2023-11-14T22:13:30.500Z", "2023-11-14T22:13:35.500Z"
    assert run_export(log, out, format=format, now=_NOW, since=since, until=until) == 5


@given(st.text())
def test_no_cell_is_a_formula(text: str) -> None:
    """No text comes out as a cell that a spreadsheet evaluates."""
    shown = safe_cell(text)
    assert not shown.lstrip().startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1"])
def test_formula_is_quoted(text: str) -> None:
    """A cell that would be evaluated begins with a quote; a number does not."""
    assert safe_cell(text) == "'" + text
    assert safe_cell(-1) == "-1"


def test_page_is_self_contained_and_inert(tmp_path, open_writer, record) -> None:
    """Hostile texts add no element, no attribute and no address to the page."""
    writer = open_writer()
    writer.offer(record(1))
    writer.close()
    plain = _Tags(_export(tmp_path / "log", "html"))
    writer = open_writer(folder=tmp_path / "evil")
    evil = ShadowFacts(policy=_HOSTILE, action="DENY", matched=None, effect="x", outcome="same")
    writer.offer(
        record(
            1,
            peer=PeerFacts(principal=_HOSTILE),
            request=RequestFacts(method=_HOSTILE, path=f"/{_HOSTILE}\u202e\x1b[31m", host=_HOSTILE),
            shadow=(evil,),
            revision=_HOSTILE,
        )
    )
    writer.close()
    page = _export(tmp_path / "evil", "html")
    tags = _Tags(page)
    assert [tag for tag, _ in tags.tags] == [tag for tag, _ in plain.tags]
    for _, attributes in tags.tags:
        assert not {"src", "href", "style"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert "default-src 'none'" in page


def test_page_says_when_the_record_is_broken(log: Path) -> None:
    """The page carries the verification: intact, or broken and where."""
    assert "The record is intact" in _export(log, "html")
    path = log / "audit-00000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b"/orders/2", b"/orders/3", 1))
    page = _export(log, "html")
    assert "broken in 1 place" in page
    assert "audit-00000001.jsonl:5" in page


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["decision", "peer", "policy", "shadow"]), inner)
        ),
        max_leaves=6,
    )
)
def test_page_survives_any_document(value: object) -> None:
    """A document of another shape than ours is shown as far as it goes."""
    document = {"decision": value, "peer": value, "request": value, "shadow": value}
    out = io.StringIO()
    html.export([document], out, title="t", range=TimeRange(), verification=None)
    assert "<table" in out.getvalue()


@pytest.mark.parametrize(
    ("since", "until"),
    [("yesterday", None), ("2026-13-01", None), ("1h", "2h"), (None, "9999999d")],
)
def test_bad_range_is_refused(since: str | None, until: str | None) -> None:
    """A text that is no time, and a range that ends before it begins, are errors."""
    with pytest.raises(AuditQueryError):
        parse_range(since, until, now=_NOW)


def test_range_reads_times_as_people_write_them() -> None:
    """A date, a zone and a time ago all come out as the record's own texts."""
    assert parse_range("2026-11-20", "1h", now=_NOW) == TimeRange(
        "2026-11-20T00:00:00.000000Z", "2026-11-21T11:00:00.000000Z"
    )
    found = parse_range("2026-11-20T02:00:00+02:00", None, now=_NOW)
    assert found.since == "2026-11-20T00:00:00.000000Z"


def test_verify_command_speaks_and_exits(log: Path) -> None:
    """The command says intact with 0, and broken with 1 and the record's name."""
    out = io.StringIO()
    assert run_verify(log, out) == 0
    assert ": intact\n" in out.getvalue()
    path = log / "audit-00000002.jsonl"
    path.write_bytes(path.read_bytes().replace(b"alice", b"mally", 1))
    out = io.StringIO()
    assert run_verify(log, out) == 1
    assert "audit-00000002.jsonl:2: the line does not hold its own hash" in out.getvalue()


def test_export_refuses_what_it_does_not_know(log: Path, tmp_path: Path) -> None:
    """An unknown format and a folder without a log are errors, never empty exports."""
    with pytest.raises(AuditQueryError, match="`xml` is no format"):
        _export(log, "xml")
    with pytest.raises(AuditReadError):
        _export(tmp_path, "csv")
