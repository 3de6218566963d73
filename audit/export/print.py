"""A report in print: a PDF with the numbers and charts first, then the sections' tables.

The fonts are those that every reader of PDF has, which know Latin letters: any other sign is
shown by its number, so that nothing that a stranger chose is left out or changes what is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Final

from reportlab.graphics.shapes import Drawing, Line, Rect, String
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import (
    CondPageBreak,
    Flowable,
    KeepTogether,
    LongTable,
    Paragraph,
    SimpleDocTemplate,
    Spacer,
    Table,
)

from audit.export import charts
from audit.export.visible import make_visible
from audit.report import Bar, Overview, Report, Section

ROWS: Final = 1000  # BUDGET: rows of a section in print; the other forms have all
_LONGEST: Final = 600  # BUDGET: signs of a cell in print; one that fills a page cannot be set
_MARGIN: Final = 15 * mm
_WITH_ROWS: Final = 45 * mm  # what must be left of a page for a section's head and a few rows
_WIDTH: Final = A4[0] - 2 * _MARGIN - 12  # a frame keeps 6 points on each side
_INK, _SOFT, _LINE = (
    colors.HexColor("#14181c"),
    colors.HexColor("#55606a"),
    colors.HexColor("#d5dbe0"),
)
_ALLOW, _DENY, _BAR = (colors.HexColor(each) for each in ("#5aa887", "#d4574d", "#b9c7d6"))
_GOOD, _BAD = colors.HexColor("#14633f"), colors.HexColor("#a02018")
_TITLE: Final = ParagraphStyle("title", fontName="Helvetica-Bold", fontSize=19, leading=23)
_HEAD: Final = ParagraphStyle(
    "head", fontName="Helvetica-Bold", fontSize=12.5, leading=16, spaceBefore=10
)
_TEXT: Final = ParagraphStyle("text", fontName="Helvetica", fontSize=8.5, leading=11.5)
_NOTE: Final = ParagraphStyle("note", parent=_TEXT, textColor=_SOFT)
_CELL: Final = ParagraphStyle(
    "cell", fontName="Helvetica", fontSize=6.6, leading=8.2, splitLongWords=True, wordWrap="CJK"
)
_NAME: Final = ParagraphStyle("name", parent=_CELL, fontName="Helvetica-Bold", textColor=_SOFT)
# How wide columns are beside each other; those that are not named here: 3.
_WEIGHTS: Final = {
    "allowed": 1.4, "denied": 1.4, "method": 1.4, "rule": 1, "use": 1.3, "decisions": 1.7,
    "count": 1.5, "first": 2.4, "last": 2.4, "at": 2.4, "answer": 1.5, "token": 1.5,
    "framework": 2, "control": 1.5, "request": 4, "why": 4, "detail": 6, "value": 6,
}  # fmt: skip


def write_pdf(report: Report) -> bytes:
    """Return the report as a PDF. The same report gives the same bytes."""
    out = BytesIO()
    document = SimpleDocTemplate(
        out,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=_MARGIN,
        bottomMargin=_MARGIN + 4 * mm,
        title=_shown(report.title),
        author="Meshwarden",
        invariant=1,
    )
    story: list[Flowable] = [*_first_page(report)]
    for section in report.sections:
        story += _section(section)
    document.build(story, onFirstPage=_footer, onLaterPages=_footer)
    return out.getvalue()


def _footer(canvas: Canvas, document: SimpleDocTemplate) -> None:
    canvas.saveState()
    canvas.setFont("Helvetica", 7)
    canvas.setFillColor(_SOFT)
    canvas.drawString(_MARGIN, 10 * mm, "Made by Meshwarden from its audit log")
    canvas.drawRightString(A4[0] - _MARGIN, 10 * mm, str(document.page))
    canvas.restoreState()


def _first_page(report: Report) -> list[Flowable]:
    overview = report.overview
    story: list[Flowable] = [
        _paragraph(report.title, _TITLE),
        _paragraph(f"Decisions: {charts.plain_range(report.range)}", _NOTE),
        Spacer(0, 8),
        *_seal(report),
        Spacer(0, 8),
        _numbers(overview),
        Spacer(0, 6),
    ]
    if overview.total:
        story += [
            KeepTogether([_paragraph("Answers by day", _HEAD), _columns(overview, 90)]),
            KeepTogether([_paragraph("Refusals by day", _HEAD), _columns(overview, 50, only=True)]),
            _side_by_side(
                _bars("Refused by", overview.refusing), _bars("Who was refused", overview.refused)
            ),
            _side_by_side(_bars("Why", overview.reasons), _week(overview)),
        ]
    return story


def _seal(report: Report) -> list[Flowable]:
    style = ParagraphStyle(
        "seal", parent=_TEXT, fontName="Helvetica-Bold", fontSize=10.5, leading=14,
        textColor=_GOOD if report.verification.intact else _BAD,
    )  # fmt: skip
    found = [_paragraph(f"The record {report.verification.verdict}.", style)]
    for each in report.verification.reports:
        text = f"{each.lines:,} lines in {each.segments:,} segments were checked"
        found.append(_paragraph(f"{text}. Last hash {each.last_hash}.", _NOTE))
        found += [_paragraph(str(problem), _TEXT) for problem in each.problems[:10]]
    return found


def _numbers(overview: Overview) -> Flowable:
    share = f" ({100 * overview.denied / overview.total:.1f} %)" if overview.total else ""
    numbers = [
        (f"{overview.total:,}", "decisions"),
        (f"{overview.allowed:,}", "allowed"),
        (f"{overview.denied:,}", f"denied{share}"),
        (f"{overview.callers_count:,}", "callers with a name"),
        (f"{overview.workloads_count:,}", "workloads called"),
        (f"{overview.anonymous:,}", "without a peer"),
    ]
    big = ParagraphStyle("big", fontName="Helvetica-Bold", fontSize=13, leading=16)
    cells = [[_paragraph(number, big), _paragraph(what, _NOTE)] for number, what in numbers]
    table = Table([cells], colWidths=[_WIDTH / len(cells)] * len(cells))
    table.setStyle(
        [
            ("BOX", (0, 0), (-1, -1), 0.5, _LINE),
            ("INNERGRID", (0, 0), (-1, -1), 0.5, _LINE),
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ]
    )
    return table


def _columns(overview: Overview, height: float, *, only: bool = False) -> Drawing:
    chart = charts.day_columns(overview.days, denied_only=only)
    left, wide = 30.0, _WIDTH - 30
    drawing = Drawing(_WIDTH, height + 16)
    for place, tick in enumerate(chart.ticks):
        y = 12 + height * (2 - place) / 2
        drawing.add(Line(left, y, _WIDTH, y, strokeColor=_LINE, strokeWidth=0.5))
        drawing.add(_label(left - 4, y - 2, tick, "end"))
    for each in chart.columns:
        x, width = left + wide * each.left / 100, wide * each.width / 100
        top = 12 + height * each.allowed / 100
        drawing.add(_box(x, 12, width, height * each.allowed / 100, _ALLOW))
        drawing.add(_box(x, top, width, height * each.denied / 100, _DENY))
    for place, day in enumerate(chart.days):
        at = place / max(1, len(chart.days) - 1)
        anchor = "start" if at == 0 else "end" if at == 1 else "middle"
        drawing.add(_label(left + wide * at, 2, _shown(day), anchor))
    return drawing


def _bars(name: str, bars: Sequence[Bar]) -> list[Flowable]:
    width = _WIDTH / 2 - 8
    story: list[Flowable] = [_paragraph(name, _HEAD)]
    if not bars:
        return [*story, _paragraph("Nothing was denied.", _NOTE)]
    rows = charts.bar_rows(bars)
    drawing = Drawing(width, 19.0 * len(rows))
    for place, row in enumerate(rows):
        y = 19.0 * (len(rows) - place - 1)
        name_shown = _shown(charts.short_name(row.name))[:58]
        drawing.add(_label(0, y + 9, name_shown, "start", _INK))
        drawing.add(_label(width, y + 9, f"{row.count:,}", "end", _INK))
        drawing.add(_box(0, y + 2, width * row.length / 100, 4, _BAR))
    return [*story, drawing]


def _week(overview: Overview) -> list[Flowable]:
    spots = charts.hour_spots(overview.hours)
    if not spots:
        return [Spacer(0, 0)]
    width, height, left = _WIDTH / 2 - 8, 90.0, 22.0
    drawing = Drawing(width, height + 12)
    for spot in spots:
        x, y = left + (width - left) * spot.left / 100, 12 + height * (1 - spot.top / 100) - 11.5
        shade = colors.Color(_DENY.red, _DENY.green, _DENY.blue, alpha=spot.shade)
        drawing.add(_box(x, y, (width - left) * 0.038, 11.5, shade))
    for place, day in enumerate(charts.WEEKDAYS):
        drawing.add(_label(0, 12 + height * (1 - (place + 0.75) / 7), day, "start"))
    for hour in (0, 6, 12, 18, 24):
        drawing.add(_label(left + (width - left) * hour / 24, 2, f"{hour:02d}:00", "middle"))
    return [_paragraph("When refusals happen (UTC)", _HEAD), drawing]


def _side_by_side(one: list[Flowable], other: list[Flowable]) -> Flowable:
    table = Table([[one, other]], colWidths=[_WIDTH / 2] * 2)
    table.setStyle([("VALIGN", (0, 0), (-1, -1), "TOP"), ("LEFTPADDING", (0, 0), (-1, -1), 0)])
    return table


def _section(section: Section) -> list[Flowable]:
    head = [_paragraph(section.title, _HEAD), _paragraph(section.question, _NOTE), Spacer(0, 4)]
    notes = [f"Note: {note}." for note in section.notes]
    if len(section.rows) > ROWS:
        notes.append(f"Note: the first {ROWS} of {len(section.rows)} rows are shown in print.")
    if section.controls:
        notes.append(f"Evidence for {', '.join(section.controls)}.")
    body: Flowable = _table(section) if section.rows else _paragraph(section.empty, _TEXT)
    told = [_paragraph(note, _NOTE) for note in notes]
    return [CondPageBreak(_WITH_ROWS), KeepTogether(head), body, *told]


def _table(section: Section) -> Flowable:
    weights = [_WEIGHTS.get(name, 3.0) for name in section.columns]
    widths = [_WIDTH * weight / sum(weights) for weight in weights]
    rows = [[_paragraph(name.replace("_", " "), _NAME) for name in section.columns]]
    rows += [
        [
            _paragraph(_cell(name, cell), _CELL)
            for name, cell in zip(section.columns, row, strict=True)
        ]
        for row in section.rows[:ROWS]
    ]
    table = LongTable(rows, colWidths=widths, repeatRows=1)
    table.setStyle(
        [
            ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ("LINEBELOW", (0, 0), (-1, -1), 0.4, _LINE),
            *(("LEFTPADDING", (0, 0), (-1, -1), 2), ("RIGHTPADDING", (0, 0), (-1, -1), 3)),
            *(("TOPPADDING", (0, 0), (-1, -1), 2), ("BOTTOMPADDING", (0, 0), (-1, -1), 2)),
        ]
    )
    return table


def _cell(name: str, value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    text = "" if value is None else str(value)
    if name in ("at", "first", "last"):
        return text.replace("T", " ")[:19]
    if name == "peer" and not text:
        return "no peer"
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _paragraph(text: str, style: ParagraphStyle) -> Paragraph:
    escape: Callable[[str], str] = _escaped
    return Paragraph(escape(_shown(text)), style)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _shown(text: str) -> str:
    """Return a text of Latin letters; every other sign by its number."""
    visible = make_visible(text).replace("…", "...")
    return "".join(
        letter if letter.isascii() or _is_latin(letter) else f"\\u{{{ord(letter):x}}}"
        for letter in visible
    )


def _is_latin(letter: str) -> bool:
    return "\xa1" <= letter <= "\xff"


def _label(x: float, y: float, text: str, anchor: str, color: Any = _SOFT) -> String:
    return String(
        x, y, text, fontName="Helvetica", fontSize=6.5, fillColor=color, textAnchor=anchor
    )


def _box(x: float, y: float, width: float, height: float, color: Any) -> Rect:
    return Rect(x, y, width, height, fillColor=color, strokeColor=None)
