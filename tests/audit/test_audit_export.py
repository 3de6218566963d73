"""Exports say what the record says, and hostile texts in them do nothing."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from audit_records import make_record
from hypothesis import given
from hypothesis import strategies as st

from audit.column_store import ColumnStore
from audit.commands import run_verify
from audit.database import duckdb
from audit.errors import AuditQueryError, AuditReadError
from audit.export.charts import day_columns
from audit.export.csv import safe_cell
from audit.export.run import FILE_FORMATS, FORMATS, Export, run_export
from audit.logs import worker_folder
from audit.record import PeerFacts, RequestFacts, ShadowFacts, SubjectFacts
from audit.report import Day
from audit.settings import AuditSettings
from audit.time_range import TimeRange, parse_range
from audit.writer import AuditWriter

_NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
_HOSTILE = (
    "=1</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'><a href=javascript:x>"
)
_TEXTS = [each for each in FORMATS if each not in FILE_FORMATS]


def _export(path: Path, format: str, **options: Any) -> str:
    out = io.StringIO(newline="")
    run_export(Export(log=path, format=format, **options), out)
    return out.getvalue()


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


def test_every_form_of_all_decisions_has_all(log: Path, tmp_path: Path) -> None:
    """JSON lines, one JSON object and Parquet tell the same decisions in the same order."""
    lines = [json.loads(line) for line in _export(log, "jsonl").splitlines()]
    whole = json.loads(_export(log, "json", names=("decisions",)))
    assert whole["decisions"] == lines
    file = tmp_path / "it's [a] file?.parquet"
    assert run_export(Export(log=log, format="parquet"), file).count == 40
    with duckdb.connect() as engine:
        rows = engine.from_parquet(str(file).replace("[", "[[]").replace("?", "[?]"))
        seqs = rows.select("seq, path, effect").fetchall()
    assert seqs == [(each["seq"], each["request"]["path"], "deny") for each in lines]


@pytest.mark.parametrize("format", _TEXTS)
def test_range_is_half_open(log: Path, format: str) -> None:
    """`since` is included, `until` is not, in every format."""
    span = parse_range("2023-11-14T22:13:30.500Z", "2023-11-14T22:13:35.500Z", now=_NOW)
    names = ("decisions",) if format == "json" else ()
    found = run_export(Export(log=log, format=format, range=span, names=names), io.StringIO())
    assert found.count == 5


def test_columns_need_not_be_kept(log: Path) -> None:
    """A report without kept columns is the same, but for what it says of its reading."""
    _export(log, "md")
    quick, whole = (
        _report_lines(log, store) for store in (ColumnStore(), ColumnStore(is_kept=False))
    )
    assert [line for line in quick if line not in whole] == [
        line for line in quick if "read line by line when their columns were made" in line
    ]
    assert len(quick) - len(whole) == 2


def _report_lines(log: Path, store: ColumnStore) -> list[str]:
    out = io.StringIO()
    run_export(Export(log=log, format="md"), out, store=store)
    return out.getvalue().splitlines()


def test_logs_of_workers_are_exported_as_one(tmp_path: Path) -> None:
    """Decisions of several workers come in order of time, and each log is vouched for."""
    folder = tmp_path / "log"
    for place, worker in enumerate(("a", "b")):
        settings = AuditSettings(folder=worker_folder(folder, worker), max_segment_bytes=4096)
        writer = AuditWriter(settings, node=worker, clock=lambda: 1_700_000_000.0)
        for number in range(place, 20, 2):
            writer.offer(make_record(number))
        writer.close()
    out = io.StringIO()
    found = run_export(Export(log=folder, format="jsonl", is_attested=True), out)
    ids = [int(json.loads(line)["decision_id"], 16) for line in out.getvalue().splitlines()]
    assert ids == list(range(20))
    assert [state.name for state in found.logs] == ["worker-a", "worker-b"]
    assert all(state.root for state in found.logs)
    page = _export(folder, "html")
    assert page.count("lines in ") == 2
    assert "worker-a: verdict" in page
    file = tmp_path / "all.parquet"
    run_export(Export(log=folder, format="parquet"), file)
    with duckdb.connect() as engine:
        rows = engine.from_parquet(str(file)).select("decision_id").fetchall()
    assert [int(each, 16) for (each,) in rows] == ids


def test_a_section_as_parquet_has_its_rows(log: Path, tmp_path: Path) -> None:
    """One section becomes a table with its columns, counts as numbers; two are refused."""
    file = tmp_path / "matrix.parquet"
    run_export(Export(log=log, format="parquet", names=("access-matrix",)), file)
    with duckdb.connect() as engine:
        assert engine.from_parquet(str(file)).select("peer, denied").fetchall() == [
            ("spiffe://td/ns/a/sa/b", 40)
        ]
    with pytest.raises(AuditQueryError, match="one report at a time"):
        run_export(Export(log=log, format="parquet", names=("controls", "integrity")), file)


def test_print_takes_any_text(tmp_path: Path, open_writer: Any, record: Any) -> None:
    """A PDF is made of hostile texts, long ones and signs that its fonts do not have."""
    writer = open_writer()
    for number, text in enumerate(
        (_HOSTILE, "x" * 5000, "\u202e\x1b[31m漢字é\U0001f600\udc80", "")
    ):
        evil = ShadowFacts(policy=text, action="DENY", matched=None, effect="x", outcome="same")
        request = RequestFacts(method=text, path=f"/{text}", host=text)
        peer = PeerFacts(principal=text)
        writer.offer(record(number, peer=peer, request=request, shadow=(evil,), revision=text))
    writer.close()
    _export(tmp_path / "log", "jsonl")
    one, two = tmp_path / "one.pdf", tmp_path / "two.pdf"
    for file in (one, two):
        run_export(Export(log=tmp_path / "log", format="pdf"), file)
    assert one.read_bytes().startswith(b"%PDF-")
    assert one.read_bytes() == two.read_bytes()
    assert b"/JavaScript" not in one.read_bytes()
    assert b"/URI" not in one.read_bytes()


def test_a_chart_shows_days_without_decisions() -> None:
    """Days between two others have their place, also when nothing was decided."""
    days = (Day(day="2026-10-01", allowed=9, denied=1), Day(day="2026-10-04", allowed=5, denied=0))
    columns = day_columns(days).columns
    assert [each.day.day[-2:] for each in columns] == ["01", "02", "03", "04"]
    assert (columns[0].allowed, columns[0].denied) == (90.0, 10.0)
    assert all(asdict(each)["left"] + each.width <= 100 for each in columns)


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/x;=1+1", "/x;'=1+1"),
        ("a; @SUM(A1);b", "a;' @SUM(A1);b"),
        ("a;;-1;\t+1", "a;;'-1;'\t+1"),
        ("a;b=c", "a;b=c"),
    ],
)
def test_formula_behind_a_semicolon_is_quoted(text: str, shown: str) -> None:
    """Nor does a text become a cell of its own where lines are split at semicolons."""
    assert safe_cell(text) == shown


def test_bytes_that_are_no_text_do_not_stop_an_export(
    tmp_path: Path, open_writer: Any, record: Any
) -> None:
    """A subject or header with half a surrogate pair is in every form of an export."""
    writer = open_writer()
    odd = "a\ud800b\udcff"
    writer.offer(record(1, subject=SubjectFacts(issuer=odd, sub=odd)))
    writer.offer(record(2, peer=PeerFacts(principal=f"CN={odd}")))
    writer.offer(record(3))
    writer.close()
    for format in FORMATS:
        for names in ((), ("decisions",)):
            wanted = Export(log=tmp_path / "log", format=format, names=names)
            assert run_export(wanted, tmp_path / f"out.{format}").count == 3, (format, names)
    shown = (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert "a\\u{d800}b\\u{dcff}" in shown


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
    """An unknown format, a form that is no text, no log: errors, never empty exports."""
    with pytest.raises(AuditQueryError, match="`xml` is no format"):
        _export(log, "xml")
    with pytest.raises(AuditQueryError, match="`pdf` is no text"):
        _export(log, "pdf")
    with pytest.raises(AuditReadError):
        _export(tmp_path, "csv")
